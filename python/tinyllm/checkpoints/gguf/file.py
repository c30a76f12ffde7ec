"""Reading GGUF files: metadata through the gguf package, tensors memory-mapped and dequantised one at a time."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import gguf
import ml_dtypes
import numpy as np

from ...errors import CheckpointError
from ..base import TensorInfo, map_array

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Stored types that need no dequantisation. The file format is little-endian.
_PLAIN_DTYPES = {
    gguf.GGMLQuantizationType.F32: np.dtype("<f4"),
    gguf.GGMLQuantizationType.F16: np.dtype("<f2"),
    gguf.GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
}

_PART_BYTES = 272  # of heap for a value of the header, which the gguf package keeps as an array: measured, CPython 3.11

_DEQUANTISED_ELEMENTS = 2**20  # how much is dequantised at a time: the gguf package holds twice its result


class _Reader(gguf.GGUFReader):
    """`gguf.GGUFReader` that names what is missing from a truncated file and reads metadata about twice as fast.

    The base class slices a numpy.memmap for every string, which is slow and silently gives fewer bytes past the end
    of the file. `tests/python/test_checkpoints_gguf.py` would notice if a new version of the package did not call the
    two methods any more.
    """

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: str | None = None) -> np.ndarray:
        dtype = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
        end = int(offset) + dtype.itemsize * int(count)
        if end > self.data.nbytes:
            raise ValueError(f"truncated: expected {end} bytes or more, found {self.data.nbytes}")
        return np.frombuffer(self.data, dtype, int(count), int(offset))

    def _build_tensors(self, start_offs: int, fields: list[gguf.ReaderField]) -> None:
        for name, kind, shape, offset in map(_tensor_header, fields):
            block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            end = start_offs + offset + math.prod(shape) // block_elements * block_bytes
            if end > self.data.nbytes:
                raise ValueError(
                    f"truncated: tensor {name!r} is expected to end at byte {end}, found {self.data.nbytes} bytes"
                )
        super()._build_tensors(start_offs, fields)


def _tensor_header(field: gguf.ReaderField) -> tuple[str, gguf.GGMLQuantizationType, list[int], int]:
    """Name, type, dimensions (fastest first) and offset into the data section."""
    _, name, _, dimensions, kind, offset = field.parts
    return bytes(name).decode(), gguf.GGMLQuantizationType(int(kind[0])), dimensions.tolist(), int(offset[0])


def open_gguf(path: Path) -> gguf.GGUFReader:
    """The parsed header of a GGUF file. CheckpointError if the file is missing, damaged or truncated."""
    try:
        reader = _Reader(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, IndexError, OverflowError) as error:  # what the package raises for damaged files
        raise CheckpointError(f"{path}: not a valid GGUF file: {error}") from error
    if reader.byte_order != "I" or reader.endianess != gguf.GGUFEndian.LITTLE:
        raise CheckpointError(f"{path}: expected a little-endian GGUF file on a little-endian machine")
    return reader


def header_heap_bytes(reader: gguf.GGUFReader) -> int:
    """Heap that the parsed header takes, about: most of it is the vocabulary."""
    return _PART_BYTES * sum(len(field.parts) for field in reader.fields.values())


def metadata(reader: gguf.GGUFReader, prefix: str, path: Path) -> dict[str, Any]:
    """Key -> value of the metadata keys that start with `prefix`, without it."""
    return {key[len(prefix) :]: _value(field, path) for key, field in reader.fields.items() if key.startswith(prefix)}


def _value(field: gguf.ReaderField, path: Path) -> Any:
    try:
        value = field.contents()
    except (ValueError, IndexError) as error:  # not UTF-8; an empty array of strings
        raise CheckpointError(f"{path}: the metadata key {field.name!r} cannot be read: {error}") from error
    if field.types == [gguf.GGUFValueType.FLOAT32]:
        return float(str(np.float32(value)))  # 1e-05, not the 9.999999747378752e-06 that the 32 bits stand for
    return value


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


def read_gguf_tensors(reader: gguf.GGUFReader, path: Path, permuted_heads: dict[str, int]) -> dict[str, TensorInfo]:
    """Tensors of the file under their stored names.

    `permuted_heads`: end of a tensor's name -> number of heads, for the tensors whose rows `unpermute_rows` must put
    back in order.
    """
    tensors = {}
    for tensor in reader.tensors:
        shape = tuple(reversed(tensor.shape.tolist()))
        heads = next((count for suffix, count in permuted_heads.items() if tensor.name.endswith(suffix)), 0)
        load = functools.partial(_load, path, tensor.tensor_type, shape, int(tensor.data_offset), heads)
        stored_bytes = int(tensor.n_bytes)
        tensors[tensor.name] = TensorInfo(
            name=tensor.name,
            stored_name=tensor.name,
            shape=shape,
            dtype=tensor.tensor_type.name,
            file=path,
            stored_bytes=stored_bytes,
            reader=load,
            heap_bytes=(stored_bytes if heads else 0) + _dequantised_bytes(tensor.tensor_type, shape),
        )
    return tensors


def _dequantised_bytes(kind: gguf.GGMLQuantizationType, shape: tuple[int, ...]) -> int:
    """Heap that dequantising takes, at most: the float32 result, and twice a part of it in the gguf package."""
    if kind in _PLAIN_DTYPES:
        return 0
    elements = math.prod(shape)
    return 4 * (elements + 2 * min(elements, max(shape[-1], _DEQUANTISED_ELEMENTS)))


def _load(path: Path, kind: gguf.GGMLQuantizationType, shape: tuple[int, ...], offset: int, heads: int) -> np.ndarray:
    """One tensor as float32, float16 or bfloat16; its heads un-permuted if there are any."""
    block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    row_bytes = shape[-1] // block_elements * block_bytes
    rows = map_array(path, np.dtype(np.uint8), (*shape[:-1], row_bytes), offset)
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
