"""PEP 517 build backend: scikit-build-core, plus nvcc from PyPI where none is installed.

The list of build requirements in pyproject.toml is fixed, but whether the CUDA compiler must be fetched depends on the
machine: `get_requires_for_build_wheel` decides it.
"""

from __future__ import annotations

import os
import platform
import shutil
from typing import TYPE_CHECKING, Any

import scikit_build_core.build as _scikit
from scikit_build_core.build import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

# CUDA 13.0: the oldest toolkit of the series, so that the library runs with every driver of it.
_NVCC_PACKAGES = [f"nvidia-{part}==13.0.*" for part in ("cuda-nvcc", "cuda-crt", "nvvm", "cuda-runtime", "cuda-cccl")]


def _wants_cuda(config_settings: Mapping[str, Any] | None) -> bool:
    """False where the user switched CUDA off with `-C cmake.define.TINYLLM_CUDA=OFF` (or in CMAKE_ARGS)."""
    value = (config_settings or {}).get("cmake.define.TINYLLM_CUDA", "AUTO")
    if "-DTINYLLM_CUDA=OFF" in os.environ.get("CMAKE_ARGS", ""):
        value = "OFF"
    return str(value).upper() not in ("OFF", "FALSE", "NO", "0")


def _nvcc_requirements(config_settings: Mapping[str, Any] | None) -> list[str]:
    has_nvcc = shutil.which("nvcc") or os.environ.get("CUDACXX")
    packaged = platform.system() == "Linux" and platform.machine() in ("x86_64", "aarch64")
    return _NVCC_PACKAGES if _wants_cuda(config_settings) and packaged and not has_nvcc else []


def get_requires_for_build_wheel(config_settings: Mapping[str, Any] | None = None) -> list[str]:
    return _scikit.get_requires_for_build_wheel(config_settings) + _nvcc_requirements(config_settings)


def get_requires_for_build_editable(config_settings: Mapping[str, Any] | None = None) -> list[str]:
    return _scikit.get_requires_for_build_editable(config_settings) + _nvcc_requirements(config_settings)
