"""Hugging Face checkpoints: a directory with `config.json` and safetensors files."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import CheckpointError
from ..base import Checkpoint, TensorInfo
from ..files import StoredFile, cannot_be_read, exists, read_json_object
from ..generation import huggingface_generation_defaults, token_ids
from ..schema import match_tensors
from .config import read_model_config
from .safetensors import DTYPES, read_safetensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...config import ModelConfig
    from ...tokenization.tokenizer import Tokenizer

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MAX_SHARD_NAME = 255  # of any file's name on Linux, in bytes
_DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_COMPARED_ROWS = 4096  # how much of two matrices is compared at a time, to keep the memory of it small

# RoPE frequencies that old versions of transformers saved; they follow from the configuration.
_HARMLESS_TENSOR = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


class HuggingFaceCheckpoint(Checkpoint):
    """A directory as transformers' `save_pretrained` writes it: F32, F16 or BF16 weights in one file or in shards.

    Two extras are accepted: `rotary_emb.inv_freq`, and an `lm_head.weight` beside a tied embedding. If the latter
    differs from the embedding, the two are taken as untied whatever the configuration says, as transformers does.
    """

    format = "huggingface"

    def __init__(self, path: Path) -> None:
        config_file = path / "config.json"
        values = read_json_object(config_file)
        read_tensors = functools.cache(functools.partial(_read_tensors, path))
        config = read_model_config(values, str(config_file), lambda: _stored_dtype(read_tensors()[1], path))
        files, self._tensors = read_tensors()
        config = _untie_if_different(config, self._tensors)

        generation_file = path / "generation_config.json"
        generation = read_json_object(generation_file) if exists(generation_file) else {}
        self._stated_eos = _stated_eos_token_ids({config_file: values, generation_file: generation}, config.vocab_size)
        super().__init__(
            path,
            config,
            huggingface_generation_defaults(generation, str(generation_file)),
            files,
            has_tokenizer=exists(path / "tokenizer.json"),
        )

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self._stated_eos or (self.tokenizer.eos_token_ids if self.has_tokenizer else ())

    def check(self) -> None:
        self._matched()

    def tensors(self) -> Iterator[TensorInfo]:
        return iter(self._matched())

    def _matched(self) -> list[TensorInfo]:
        return match_tensors(
            self.config,
            self._tensors,
            self.path,
            stored_name=_stored_name,
            loadable_types=DTYPES,
            is_harmless=lambda name: _HARMLESS_TENSOR.fullmatch(name) is not None,
        )

    def _open_tokenizer(self) -> Tokenizer:
        from ...tokenization.huggingface import load_huggingface_tokenizer

        return load_huggingface_tokenizer(self.path)


def _stored_name(name: str) -> str:
    return name if name.startswith("lm_head.") else f"model.{name}"


def _stated_eos_token_ids(files: dict[Path, dict[str, Any]], vocab_size: int) -> tuple[int, ...]:
    """End tokens of the last file that states some: generation_config.json overrides config.json in transformers."""
    ids: tuple[int, ...] = ()
    for path, values in files.items():
        ids = token_ids(values.get("eos_token_id"), f"{path}: 'eos_token_id'", vocab_size) or ids
    return ids


def _stored_dtype(tensors: dict[str, TensorInfo], path: Path) -> str:
    """Type of the embedding, for a config.json that names none."""
    info = tensors.get(_stored_name("embed_tokens.weight"))
    if info is None or info.dtype not in _DTYPE_NAMES:
        raise CheckpointError(
            f"{path}: config.json has no 'dtype', and there is no embedding of a supported type "
            f"({', '.join(_DTYPE_NAMES)}) to take it from"
        )
    return _DTYPE_NAMES[info.dtype]


def _read_tensors(directory: Path) -> tuple[list[StoredFile], dict[str, TensorInfo]]:
    """Files and headers: of `model.safetensors`, or of the shards that the index lists."""
    if exists(directory / _WEIGHTS):
        file, tensors = read_safetensors(directory / _WEIGHTS)
        return [file], tensors
    if exists(directory / _INDEX):
        return _read_shards(directory)
    try:
        others = sorted(path.name for path in directory.iterdir() if path.suffix in (".bin", ".pth", ".pt"))
    except OSError as error:
        raise cannot_be_read(directory, error) from error
    hint = f"; save the model as safetensors: {', '.join(others)} cannot be read" if others else ""
    raise CheckpointError(f"{directory}: expected {_WEIGHTS} or {_INDEX}, found neither{hint}")


def _read_shards(directory: Path) -> tuple[list[StoredFile], dict[str, TensorInfo]]:
    index_file = directory / _INDEX
    weight_map = read_json_object(index_file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index_file}: expected an object 'weight_map', found {weight_map!r:.80}")
    files: list[StoredFile] = []
    tensors: dict[str, TensorInfo] = {}
    for shard in _shard_names(weight_map, index_file):
        if not exists(directory / shard):
            raise CheckpointError(f"{directory / shard}: this shard is missing; {_INDEX} lists it")
        file, found = read_safetensors(directory / shard)
        files.append(file)
        for name, info in found.items():
            if name in tensors:
                raise CheckpointError(f"{info.file}: tensor {name!r} is also in {tensors[name].file}; expected it once")
            tensors[name] = info
    _check_index(index_file, weight_map, tensors)
    return files, tensors


def _shard_names(weight_map: dict[str, Any], index_file: Path) -> list[str]:
    """The files that the index lists, which lie beside it."""
    for shard in weight_map.values():
        is_name = isinstance(shard, str) and Path(shard).name == shard and len(shard) <= _MAX_SHARD_NAME
        if not is_name or not shard.isprintable():
            raise CheckpointError(
                f"{index_file}: expected file names of at most {_MAX_SHARD_NAME} characters in 'weight_map', "
                f"found {shard!r:.80}"
            )
    return sorted(set(weight_map.values()))


def _check_index(index_file: Path, weight_map: dict[str, Any], tensors: dict[str, TensorInfo]) -> None:
    """Every tensor must be in the shard that the index names."""
    for name, shard in weight_map.items():
        found = tensors[name].file.name if name in tensors else "no such tensor"
        if found != shard:
            raise CheckpointError(f"{index_file}: tensor {name!r}: expected it in {shard}, found {found}")


def _untie_if_different(config: ModelConfig, tensors: dict[str, TensorInfo]) -> ModelConfig:
    """Clear `tie_word_embeddings` if the checkpoint has an output matrix with values of its own."""
    if not config.tie_word_embeddings:
        return config
    embedding, output = tensors.get(_stored_name("embed_tokens.weight")), tensors.get("lm_head.weight")
    if embedding is None or output is None:
        return config  # no output matrix, or something that match_tensors reports
    if not embedding.shape == output.shape == (config.vocab_size, config.hidden_dim):
        return config  # match_tensors reports it
    tied = embedding.dtype == output.dtype and _same_bytes(embedding, output)
    return config if tied else replace(config, tie_word_embeddings=False)


def _same_bytes(a: TensorInfo, b: TensorInfo) -> bool:
    if a.dtype not in DTYPES:
        return True  # cannot be loaded; match_tensors reports it
    rows_a, rows_b = a.load().view(np.uint8), b.load().view(np.uint8)
    return all(
        np.array_equal(rows_a[start : start + _COMPARED_ROWS], rows_b[start : start + _COMPARED_ROWS])
        for start in range(0, len(rows_a), _COMPARED_ROWS)
    )
