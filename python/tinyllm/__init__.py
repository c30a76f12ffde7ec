"""tinyllm: decoder-only language models with int8 weights and 16-bit activations, on NVIDIA GPUs and CPUs.

import tinyllm
with tinyllm.load("model.gguf") as model:
    print(model.generate("The capital of France is", max_new_tokens=16).text)
"""

from importlib import metadata as _metadata

from ._native.devices import Device, devices
from .config import GenerationConfig, KVCacheConfig, ModelConfig, QuantizationType
from .errors import CheckpointError, ClosedError, ConfigError, CudaError, OutOfMemoryError, TinyllmError
from .generation.results import GenerationResult, GenerationStats, StreamPiece
from .generation.text_request import TextStream
from .memory.planning import MemoryPlan, plan
from .memory.report import MemoryReport
from .model import Model, load

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
    "OutOfMemoryError",
    "QuantizationType",
    "StreamPiece",
    "TextStream",
    "TinyllmError",
    "devices",
    "load",
    "plan",
]

try:
    __version__ = _metadata.version("tinyllm")
except _metadata.PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"


def __dir__() -> list[str]:
    # Without the modules of the package, which are attributes of it whether they are public or not.
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
