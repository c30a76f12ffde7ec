"""Opening checkpoints: `open_checkpoint` and what it returns.

The files, from the outside in: huggingface/hub.py fetches a model by name; huggingface/ and gguf/ are the two formats,
each with a checkpoint.py, a reader of its configuration (config.py) and those of its tensors (safetensors.py; header.py
and file.py); files.py, rope.py, generation.py and settings.py are shared; schema.py compares tensors with those
a model must have.

To add an architecture, add its row to the table in huggingface/config.py, its biases and norms there, and its GGUF name
in gguf/config.py.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import CheckpointError, OutOfMemoryError
from .base import Checkpoint, TensorInfo
from .files import exists
from .huggingface.hub import fetch, is_hub_name
from .schema import count_parameters, expected_tensors

__all__ = ["Checkpoint", "TensorInfo", "count_parameters", "expected_tensors", "open_checkpoint"]


def open_checkpoint(path_or_name: str | os.PathLike[str], need_weights: bool = True) -> Checkpoint:
    """Open a Hugging Face directory, a GGUF file, or a model of the Hugging Face Hub by its name `owner/model`.

    Configuration and tensor headers are read and checked; no weights are. Without `need_weights` a directory may lack
    them, and the path may be that of its config.json. Raises CheckpointError.
    """
    if not isinstance(path_or_name, (str, os.PathLike)):
        raise TypeError(f"the model must be a path or a name, got {type(path_or_name).__name__}: {path_or_name!r}")
    try:
        return _open(path_or_name, need_weights)
    except RecursionError as error:
        raise CheckpointError(f"{path_or_name}: nested too deeply to be a model: {error}") from error
    except MemoryError as error:
        if isinstance(error, OutOfMemoryError):
            raise
        raise OutOfMemoryError(f"out of host memory while reading {path_or_name} ({error})") from error


def _open(path_or_name: str | os.PathLike[str], need_weights: bool) -> Checkpoint:
    try:
        # Absolute, so that the files are found again where the process has changed its directory.
        path = Path(path_or_name).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # no such user; the current directory is gone
        raise CheckpointError(f"{path_or_name}: not a usable path: {error}") from error
    if not exists(path):
        if not is_hub_name(str(path_or_name)):
            raise CheckpointError(
                f"{path_or_name}: no such file or directory; expected a directory with config.json and safetensors "
                "files, a .gguf file, or the name owner/model of a model on the Hugging Face Hub"
            )
        path = fetch(str(path_or_name))
    if not need_weights and path.name == "config.json":
        path = path.parent
    checkpoint = _open_directory(path, need_weights) if path.is_dir() else _open_file(path)
    checkpoint.check()
    return checkpoint


def _open_directory(path: Path, need_weights: bool) -> Checkpoint:
    from .huggingface.checkpoint import HuggingFaceCheckpoint
    from .huggingface.config_only import ConfigOnlyCheckpoint

    if not exists(path / "config.json"):
        gguf_files = sorted(file.name for file in path.glob("*.gguf"))
        hint = f"; for a GGUF model pass the file: {', '.join(gguf_files)}" if gguf_files else ""
        raise CheckpointError(f"{path}: expected a config.json in this directory, found none{hint}")
    if not need_weights and not any(path.glob("*.safetensors*")):
        return ConfigOnlyCheckpoint(path)
    return HuggingFaceCheckpoint(path)


def _open_file(path: Path) -> Checkpoint:
    from .gguf.checkpoint import GgufCheckpoint

    if path.suffix.lower() != ".gguf":
        raise CheckpointError(
            f"{path}: expected a .gguf file or a directory with config.json and safetensors files, found a file of "
            f"type {path.suffix or 'none'!r}"
        )
    return GgufCheckpoint(path)
