"""A Hugging Face checkpoint of which only config.json is there: enough to plan it and to describe it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...errors import CheckpointError
from ..base import Checkpoint, TensorInfo
from ..files import read_json_object
from ..schema import expected_tensors
from .config import read_model_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

    from ...tokenization.tokenizer import Tokenizer

_DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}


class ConfigOnlyCheckpoint(Checkpoint):
    """The tensors are those that the configuration implies. `load` of one raises CheckpointError."""

    format = "huggingface"
    has_weights = False

    def __init__(self, path: Path) -> None:
        config_file = path / "config.json"
        # The plan of a 16-bit model is the same for both types, so any will do where the file names none.
        config = read_model_config(read_json_object(config_file), str(config_file), lambda: "bfloat16")
        super().__init__(path, config, {})

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """None: config.json's are for a model that generates."""
        return ()

    def check(self) -> None:
        """Nothing is stored that could differ from the configuration."""

    def tensors(self) -> Iterator[TensorInfo]:
        """What the configuration implies, in the type that it names."""
        dtype, element_bytes = _DTYPES[self.config.dtype]
        for name, shape in expected_tensors(self.config).items():
            stored_bytes = math.prod(shape) * element_bytes
            yield TensorInfo(name, name, shape, dtype, self.path / "config.json", stored_bytes, self._no_weights)

    def _no_weights(self) -> np.ndarray:
        raise CheckpointError(f"{self.path}: expected safetensors files, found config.json only")

    def _open_tokenizer(self) -> Tokenizer:
        from ...tokenization.huggingface import load_huggingface_tokenizer

        return load_huggingface_tokenizer(self.path)
