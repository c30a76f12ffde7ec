"""Which tensors a model configuration implies: their canonical names, shapes and load order, as the library says.

Canonical names are Hugging Face's without the leading "model."; linear weights are [out_features, in_features].
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from .._native import engine as native
from ..errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from ..config import ModelConfig
    from .base import TensorInfo

Shape = tuple[int, ...]

_MAX_REPORTED = 8  # a wrong config makes every tensor wrong; the first few tell the story


def expected_tensors(config: ModelConfig, rope_freq_factors: bool = False) -> dict[str, Shape]:
    """Name -> shape of every tensor the model needs, in the order a loader should read them.

    `rope_freq_factors`: with the tensor that divides the RoPE frequencies.
    """
    tensors = native.model_tensors(native.model_struct(config, rope_freq_factors))
    return {tensor.name.decode(): tuple(tensor.shape[: tensor.num_dims]) for tensor in tensors}


def count_parameters(config: ModelConfig) -> int:
    """Number of weights in the model; a tied embedding counts once."""
    return sum(math.prod(shape) for shape in expected_tensors(config).values())


def match_tensors(
    config: ModelConfig,
    stored: Mapping[str, TensorInfo],
    location: Path,
    *,
    stored_name: Callable[[str], str],
    loadable_types: Collection[str],
    is_harmless: Callable[[str], bool],
    rope_freq_factors: bool = False,
) -> list[TensorInfo]:
    """Compare what a checkpoint holds with what its configuration implies; headers only, no data is read.

    `stored` maps the format's own names to tensors, `stored_name` turns a canonical name into the format's own.
    Returns the tensors to load under their canonical names, in load order. Raises one CheckpointError that lists
    every missing, extra, mis-shaped or mis-typed tensor (the first few of them) with file, expected and found.

    Two kinds of extra tensor are accepted and not loaded: those `is_harmless` knows, and an output matrix beside a
    tied embedding, if it has the embedding's shape.
    """
    if config.num_layers > len(stored):
        # Before a list of tensors is made that has millions of entries, because one damaged number says so.
        raise CheckpointError(f"{location}: expected {config.num_layers} layers, found {len(stored)} tensors in all")
    try:
        required = expected_tensors(config, rope_freq_factors)
    except ConfigError as error:
        raise CheckpointError(f"{location}: {error}") from error
    redundant = {"lm_head.weight": required["embed_tokens.weight"]} if config.tie_word_embeddings else {}

    problems: list[str] = []
    matched: list[TensorInfo] = []
    for name, shape in required.items():
        info = stored.get(stored_name(name))
        if info is None:
            problems.append(f"{location}: tensor {stored_name(name)!r} is missing; expected shape {list(shape)}")
            continue
        problems.extend(_tensor_problems(info, shape, loadable_types))
        matched.append(replace(info, name=name))

    known = set(map(stored_name, required))
    for name, info in stored.items():
        if name in known or is_harmless(name):
            continue
        if name in map(stored_name, redundant):
            problems.extend(_tensor_problems(info, redundant["lm_head.weight"], loadable_types))
        else:
            problems.append(
                f"{info.file}: unexpected tensor {name!r} of shape {list(info.shape)}; expected no such tensor"
            )

    if problems:
        _raise_problems(problems)
    return matched


def _tensor_problems(info: TensorInfo, shape: Shape, loadable_types: Collection[str]) -> Iterator[str]:
    where = f"{info.file}: tensor {info.stored_name!r}"
    if info.shape != shape:
        yield f"{where}: expected shape {list(shape)}, found {list(info.shape)}"
    if info.dtype not in loadable_types:
        yield f"{where}: expected one of the types {', '.join(sorted(loadable_types))}, found {info.dtype}"


def _raise_problems(problems: list[str]) -> None:
    lines = problems[:_MAX_REPORTED]
    if len(problems) > len(lines):
        lines.append(f"... and {len(problems) - len(lines)} more")
    raise CheckpointError("\n".join(lines))
