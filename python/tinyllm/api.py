"""Everything that `import tinyllm` offers; see `__init__.py`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from ._native.devices import Device, devices
from .config import GenerationConfig, KVCacheConfig, ModelConfig, QuantizationType
from .errors import CheckpointError, ClosedError, ConfigError, CudaError, NotFiniteError, OutOfMemoryError, TinyllmError
from .generation.results import GenerationResult, GenerationStats, StreamPiece
from .generation.text_request import TextStream
from .loading import load
from .memory.planning import MemoryPlan, plan
from .memory.report import MemoryReport
from .model import Model

__all__ = [
    "CheckpointError",
    "ClosedError",
    "ConfigError",
    "CudaError",
    "Device",
    "GenerationConfig",
    "GenerationResult",
    "GenerationStats",
    "KVCacheConfig",
    "MemoryPlan",
    "MemoryReport",
    "Model",
    "ModelConfig",
    "NotFiniteError",
    "OutOfMemoryError",
    "QuantizationType",
    "StreamPiece",
    "TextStream",
    "TinyllmError",
    "devices",
    "load",
    "plan",
]

DISTRIBUTION = "tinyllm-w8a16"  # the name that pip knows; "tinyllm" on PyPI is another project

try:
    __version__ = version(DISTRIBUTION)
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"
