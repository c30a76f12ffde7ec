"""Reading safetensors files: headers checked in full, tensors memory-mapped one at a time."""

from __future__ import annotations

import errno
import functools
import math
from typing import TYPE_CHECKING, Any, BinaryIO

import ml_dtypes
import numpy as np

from ...errors import CheckpointError
from ..base import TensorInfo
from ..files import StoredFile, cannot_be_read, open_file, parse_json_object

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Stored types tinyllm loads. The file format is little-endian.
DTYPES = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}

_PREFIX_BYTES = 8  # little-endian length of the JSON header that follows
_MAX_HEADER_BYTES = 100_000_000  # the safetensors package's own limit
_MAX_DIMENSIONS = 8  # no model has more, and the product of millions of them takes for ever


def read_safetensors(path: Path) -> tuple[StoredFile, dict[str, TensorInfo]]:
    """One file, and its tensors under their stored names; the header is read and checked, the data is not touched.

    The safetensors package checks the header (sizes, overlaps, holes) but does not tell where a tensor's bytes are,
    which memory-mapping needs; so the header is parsed here as well, first, because that can name the tensor that a
    truncated file lacks. Raises CheckpointError.
    """
    with open_file(path) as opened:
        file = StoredFile.of(opened, path)
        header, data_start = _read_header(opened, file.size, path)
    tensors = {}
    for name, entry in _tensor_entries(header, path):
        dtype_name, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if data_start + end > file.size:
            raise CheckpointError(
                f"{path}: truncated: tensor {name!r} is expected to end at byte {data_start + end}, "
                f"found {file.size} bytes in the file"
            )
        dtype = DTYPES.get(dtype_name)
        if dtype is not None and end - begin != math.prod(shape) * dtype.itemsize:
            raise CheckpointError(
                f"{path}: tensor {name!r} of type {dtype_name} and shape {list(shape)}: expected "
                f"{math.prod(shape) * dtype.itemsize} bytes, found {end - begin}"
            )
        # A type without an entry in DTYPES is refused before anything is loaded (schema.match_tensors).
        reader = functools.partial(file.map_array, dtype or np.dtype(np.uint8), shape, data_start + begin)
        is_aligned = dtype is None or (data_start + begin) % dtype.itemsize == 0
        heap_bytes = 0 if is_aligned else end - begin  # map_array copies what is not
        tensors[name] = TensorInfo(name, name, shape, dtype_name, path, end - begin, reader, heap_bytes)
    _validate(path)
    file.require_unchanged()  # the package has opened the path again
    return file, tensors


def _read_header(file: BinaryIO, file_size: int, path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header and the offset at which tensor data starts."""
    try:
        prefix = file.read(_PREFIX_BYTES)
        header_bytes = int.from_bytes(prefix, "little")
        if len(prefix) < _PREFIX_BYTES or _PREFIX_BYTES + header_bytes > file_size:
            raise CheckpointError(
                f"{path}: truncated or not a safetensors file: expected a header of {header_bytes} bytes after "
                f"the first {_PREFIX_BYTES}, found {file_size} bytes in all"
            )
        if header_bytes > _MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{path}: expected a header of at most {_MAX_HEADER_BYTES} bytes, found one of {header_bytes}"
            )
        content = file.read(header_bytes)
    except OSError as error:
        raise cannot_be_read(path, error) from error
    return parse_json_object(content, f"{path}: the header"), _PREFIX_BYTES + header_bytes


def _tensor_entries(header: dict[str, Any], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        well_formed = (
            isinstance(entry, dict)
            and isinstance(entry.get("dtype"), str)
            and _is_list_of_sizes(entry.get("shape"))
            and _is_list_of_sizes(entry.get("data_offsets"))
            and len(entry["data_offsets"]) == 2
            and entry["data_offsets"][0] <= entry["data_offsets"][1]
        )
        if not well_formed:
            raise CheckpointError(
                f"{path}: tensor {name!r}: expected dtype, shape and data_offsets in the header, found {entry!r:.200}"
            )
        yield name, entry


def _is_list_of_sizes(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > _MAX_DIMENSIONS:
        return False
    return all(type(item) is int and 0 <= item < 2**63 for item in value)


def _validate(path: Path) -> None:
    """The safetensors package's own checks of the header."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass
    except (OSError, safetensors.SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOMEM:
            raise MemoryError(f"{path} cannot be mapped") from error
        raise CheckpointError(f"{path}: not a valid safetensors file: {error}") from error
