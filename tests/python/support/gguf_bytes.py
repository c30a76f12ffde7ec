"""GGUF headers byte by byte, for files that no writer would make."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

U8, I32, U32, F32, BOOL, TEXT, ARRAY, U64 = 0, 5, 4, 6, 7, 8, 9, 10
F32_TENSOR, Q8_0_TENSOR = 0, 8


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind: int, value: Any) -> bytes:
    if kind == TEXT:
        return text(value)
    return struct.pack({U8: "<B", I32: "<i", U32: "<I", F32: "<f", BOOL: "<?", U64: "<Q"}[kind], value)


def array(kind: int, values: Sequence[Any], count: int | None = None) -> bytes:
    """The value of an array; `count` is what it says about its length."""
    items = b"".join(scalar(kind, value) for value in values)
    return struct.pack("<IQ", kind, len(values) if count is None else count) + items


def nested_array(depth: int) -> bytes:
    """An array of an array of ... an array of nothing."""
    return struct.pack("<IQ", ARRAY, 1) * depth + struct.pack("<IQ", U8, 0)


def entry(name: str | bytes, kind: int, value: bytes) -> bytes:
    """One metadata key."""
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str | bytes, dimensions: Sequence[int], offset: int, kind: int = F32_TENSOR) -> bytes:
    """One entry of the list of tensors; dimensions are in the file's order."""
    sizes = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


def header(
    entries: Sequence[bytes],
    tensors: Sequence[bytes],
    num_entries: int | None = None,
    num_tensors: int | None = None,
    version: int = 3,
) -> bytes:
    counts = (
        len(tensors) if num_tensors is None else num_tensors,
        len(entries) if num_entries is None else num_entries,
    )
    return b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join([*entries, *tensors])
