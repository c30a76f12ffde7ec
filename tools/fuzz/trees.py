"""GGUF and safetensors files as trees that can be written again, also where they have become nonsense."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

TEXT, ARRAY = 8, 9
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


@dataclass
class GgufEntry:
    """One metadata key. `value` is a number, bytes, or for arrays a list of those (or of lists)."""

    name: bytes
    kind: int
    value: Any
    item_kind: int = 0  # of arrays
    count: int | None = None  # what an array says about its length; None: the truth


@dataclass
class GgufTensor:
    """One entry of the list of tensors."""

    name: bytes
    dimensions: list[int]
    kind: int
    offset: int


@dataclass
class GgufTree:
    """A file."""

    entries: list[GgufEntry]
    tensors: list[GgufTensor]
    data: bytes
    version: int = 3
    num_entries: int | None = None  # None: the truth
    num_tensors: int | None = None
    alignment: int = 32
    inserted: bytes = field(default=b"")  # between metadata and tensors

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        counts = (
            len(self.tensors) if self.num_tensors is None else self.num_tensors,
            len(self.entries) if self.num_entries is None else self.num_entries,
        )
        parts = [b"GGUF", struct.pack("<IQQ", self.version & 0xFFFFFFFF, *(count % 2**64 for count in counts))]
        parts += map(_entry_bytes, self.entries)
        parts.append(self.inserted)
        parts += map(_tensor_bytes, self.tensors)
        header = b"".join(parts)
        return header + bytes(-len(header) % self.alignment) + self.data


def _entry_bytes(entry: GgufEntry) -> bytes:
    head = _text_bytes(entry.name) + struct.pack("<I", entry.kind)
    if entry.kind != ARRAY:
        return head + _value_bytes(entry.kind, entry.value)
    values = entry.value if isinstance(entry.value, list) else [entry.value]
    count = len(values) if entry.count is None else entry.count
    items = b"".join(_value_bytes(entry.item_kind, value) for value in values)
    return head + struct.pack("<IQ", entry.item_kind, count % 2**64) + items


def _value_bytes(kind: int, value: Any) -> bytes:
    if isinstance(value, bytes):
        return _text_bytes(value) if kind == TEXT else value
    if kind in SCALARS:
        try:
            return struct.pack(SCALARS[kind], value)
        except (struct.error, OverflowError, TypeError):
            return bytes(struct.calcsize(SCALARS[kind]))
    return _text_bytes(repr(value).encode()) if kind == TEXT else b""


def _text_bytes(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _tensor_bytes(tensor: GgufTensor) -> bytes:
    sizes = struct.pack(f"<I{len(tensor.dimensions)}Q", len(tensor.dimensions), *(n % 2**64 for n in tensor.dimensions))
    return _text_bytes(tensor.name) + sizes + struct.pack("<IQ", tensor.kind, tensor.offset % 2**64)


class _Bytes:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.offset = 0

    def unpack(self, form: str) -> Any:
        values = struct.unpack_from(form, self.content, self.offset)
        self.offset += struct.calcsize(form)
        return values[0] if len(values) == 1 else list(values)

    def text(self) -> bytes:
        length = self.unpack("<Q")
        self.offset += length
        return self.content[self.offset - length : self.offset]

    def value(self, kind: int) -> Any:
        return self.text() if kind == TEXT else self.unpack(SCALARS[kind])


def read_gguf(content: bytes) -> GgufTree:
    """The tree of a well-formed file."""
    source = _Bytes(content)
    source.offset = 4
    version, num_tensors, num_entries = source.unpack("<IQQ")
    entries = []
    for _ in range(num_entries):
        name, kind = source.text(), source.unpack("<I")
        if kind == ARRAY:
            item_kind, count = source.unpack("<IQ")
            entries.append(GgufEntry(name, kind, [source.value(item_kind) for _ in range(count)], item_kind))
        else:
            entries.append(GgufEntry(name, kind, source.value(kind)))
    tensors = []
    for _ in range(num_tensors):
        name, num_dimensions = source.text(), source.unpack("<I")
        dimensions = [source.unpack("<Q") for _ in range(num_dimensions)]
        kind, offset = source.unpack("<IQ")
        tensors.append(GgufTensor(name, dimensions, kind, offset))
    data_offset = -(-source.offset // 32) * 32
    return GgufTree(entries, tensors, content[data_offset:], version)


@dataclass
class SafetensorsTree:
    """A file."""

    header: Any  # JSON
    data: bytes
    header_bytes: int | None = None  # what the file says about it; None: the truth

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        header = json.dumps(self.header).encode()
        size = len(header) if self.header_bytes is None else self.header_bytes
        return struct.pack("<Q", size % 2**64) + header + self.data


def read_safetensors(content: bytes) -> SafetensorsTree:
    """The tree of a well-formed file."""
    (size,) = struct.unpack_from("<Q", content)
    return SafetensorsTree(json.loads(content[8 : 8 + size]), content[8 + size :])
