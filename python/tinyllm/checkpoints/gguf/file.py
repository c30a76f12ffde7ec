"""Tensors of GGUF files: memory-mapped, and dequantised one at a time by the gguf package."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import gguf
import ml_dtypes
import numpy as np

from ..base import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..files import StoredFile
    from .header import GgufHeader, StoredTensor

# Stored types that need no dequantisation. The file format is little-endian.
_PLAIN_DTYPES = {
    gguf.GGMLQuantizationType.F32: np.dtype("<f4"),
    gguf.GGMLQuantizationType.F16: np.dtype("<f2"),
    gguf.GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
}

_DEQUANTISED_ELEMENTS = 2**20  # how much is dequantised at a time: the gguf package holds twice its result


@functools.cache
def loadable_types() -> frozenset[str]:
    """Names of the tensor types that the gguf package can dequantise; it has no list of them, so they are tried."""
    return frozenset(kind.name for kind in gguf.GGMLQuantizationType if _is_loadable(kind))


def _is_loadable(kind: gguf.GGMLQuantizationType) -> bool:
    one_block = np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
    try:
        gguf.quants.dequantize(one_block, kind)
    except NotImplementedError:
        return False
    return True


def read_gguf_tensors(header: GgufHeader, permuted_heads: dict[str, int]) -> dict[str, TensorInfo]:
    """Tensors of the file under their stored names.

    `permuted_heads`: end of a tensor's name -> number of heads, for the tensors whose rows `unpermute_rows` must put
    back in order.
    """
    tensors = {}
    for tensor in header.tensors:
        heads = next((count for suffix, count in permuted_heads.items() if tensor.name.endswith(suffix)), 0)
        tensors[tensor.name] = TensorInfo(
            name=tensor.name,
            stored_name=tensor.name,
            shape=tensor.shape,
            dtype=tensor.kind.name,
            file=header.path,
            stored_bytes=tensor.size,
            reader=functools.partial(_load, header.file, tensor, heads),
            heap_bytes=(tensor.size if heads else 0) + _dequantised_bytes(tensor.kind, tensor.shape),
        )
    return tensors


def _dequantised_bytes(kind: gguf.GGMLQuantizationType, shape: tuple[int, ...]) -> int:
    """Heap that dequantising takes, at most: the float32 result, and twice a part of it in the gguf package."""
    if kind in _PLAIN_DTYPES:
        return 0
    elements = math.prod(shape)
    return 4 * (elements + 2 * min(elements, max(shape[-1], _DEQUANTISED_ELEMENTS)))


def _load(file: StoredFile, tensor: StoredTensor, heads: int) -> np.ndarray:
    """One tensor as float32, float16 or bfloat16; its heads un-permuted if there are any."""
    kind, shape = tensor.kind, tensor.shape
    block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    row_bytes = shape[-1] // block_elements * block_bytes
    rows = file.map_array(np.dtype(np.uint8), (*shape[:-1], row_bytes), tensor.offset)
    is_matrix = len(shape) > 1
    if heads and is_matrix:
        rows = unpermute_rows(rows, heads)  # before dequantising, while it is small: rows are quantised one by one
    values = rows.view(_PLAIN_DTYPES[kind]) if kind in _PLAIN_DTYPES else _dequantise(rows, kind, shape)
    return unpermute_rows(values, heads) if heads and not is_matrix else values


def _dequantise(rows: np.ndarray, kind: gguf.GGMLQuantizationType, shape: tuple[int, ...]) -> np.ndarray:
    result = np.empty(shape, np.float32)
    flat_rows, flat_result = rows.reshape(-1, rows.shape[-1]), result.reshape(-1, shape[-1])
    for part in _slices(len(flat_rows), max(1, _DEQUANTISED_ELEMENTS // shape[-1])):
        flat_result[part] = gguf.quants.dequantize(flat_rows[part], kind)
    return result


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, length, step))


def unpermute_rows(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo the order in which llama.cpp's converter stores the rows of a llama model's query and key projections.

    RoPE turns pairs of rows. Within a head of width d, transformers pairs row i with row i + d/2, llama.cpp row 2i
    with row 2i + 1; the converter (`LlamaModel.permute` in convert_hf_to_gguf.py) moves the rows accordingly. This
    gives transformers' order. `rows`: [heads * d, ...] or [heads * d].
    """
    half = rows.shape[0] // heads // 2
    return np.ascontiguousarray(rows.reshape(heads, half, 2, *rows.shape[1:]).swapaxes(1, 2)).reshape(rows.shape)
