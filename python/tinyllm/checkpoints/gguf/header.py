"""The header of a GGUF file: its metadata and where its tensors lie.

The header is copied into memory and checked in one pass; metadata stays as bytes until it is asked for. (The gguf
package's reader makes several Python objects for every token of the vocabulary, tens of megabytes of them.)
The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO

import gguf
import numpy as np

from ...errors import CheckpointError
from ..files import StoredFile, cannot_be_read, open_file

if TYPE_CHECKING:
    from pathlib import Path

_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4

# Bounds on what a damaged or hostile file makes a reader do. The largest vocabularies take about 20 MB.
_MAX_HEADER_BYTES = 128 << 20
_MAX_ENTRIES = 65536  # metadata keys, and tensors
_FIRST_READ = 1 << 20

_Type = gguf.GGUFValueType
_SCALARS: dict[gguf.GGUFValueType, np.dtype[Any]] = {
    _Type.UINT8: np.dtype("u1"),
    _Type.INT8: np.dtype("i1"),
    _Type.UINT16: np.dtype("<u2"),
    _Type.INT16: np.dtype("<i2"),
    _Type.UINT32: np.dtype("<u4"),
    _Type.INT32: np.dtype("<i4"),
    _Type.UINT64: np.dtype("<u8"),
    _Type.INT64: np.dtype("<i8"),
    _Type.FLOAT32: np.dtype("<f4"),
    _Type.FLOAT64: np.dtype("<f8"),
    _Type.BOOL: np.dtype("?"),
}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies."""

    name: str
    kind: gguf.GGMLQuantizationType
    shape: tuple[int, ...]  # slowest dimension first, as in NumPy
    offset: int  # from the start of the file
    size: int  # bytes


@dataclass(frozen=True)
class Field:
    """One value of the metadata, decoded by `contents`."""

    name: str
    where: str  # for messages: file and key
    buffer: memoryview  # the value, and what follows it
    kind: gguf.GGUFValueType  # of the value, or of an array's items
    count: int | None  # items of an array; None for a single value

    def contents(self) -> Any:
        """str, int, float, bool or a list of those. CheckpointError for text that is not UTF-8."""
        if self.kind == _Type.STRING:
            texts = self._texts(1 if self.count is None else self.count)
            return texts[0] if self.count is None else texts
        values = np.frombuffer(self.buffer, _SCALARS[self.kind], 1 if self.count is None else self.count)
        if self.count is not None:
            return values.tolist()
        if self.kind == _Type.FLOAT32:
            return float(str(values[0]))  # 1e-05, not the 9.999999747378752e-06 that the 32 bits stand for
        return values[0].item()

    def _texts(self, count: int) -> list[str]:
        texts, offset, unpack = [], 0, _U64.unpack_from
        try:
            for _ in range(count):
                start = offset + 8
                offset = start + unpack(self.buffer, offset)[0]
                texts.append(str(self.buffer[start:offset], "utf-8"))
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.where} cannot be read: {error}") from error
        return texts


class GgufHeader:
    """The checked header of one file."""

    def __init__(self, path: Path) -> None:
        """CheckpointError if the file is missing, damaged, truncated or of a kind tinyllm does not read."""
        self.path = path
        with open_file(path) as file:
            self.file = StoredFile.of(file, path)
            parser = _Parser(file, self.file.size, path)
            self.fields, self.tensors, self.data_offset = parser.parse()
        self.heap_bytes = parser.held_bytes  # of the header's copy

    def get_field(self, name: str) -> Field | None:
        """The value stored under `name`."""
        return self.fields.get(name)

    def section(self, prefix: str) -> dict[str, Any]:
        """Key -> value of the metadata keys that start with `prefix`, without it."""
        return {name[len(prefix) :]: field.contents() for name, field in self.fields.items() if name.startswith(prefix)}


class _Parser:
    """Reads a header from front to back, and little more of the file than it needs."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self._file = file
        self._size = size
        self._path = path
        self._buffer = bytearray()
        self._offset = 0

    @property
    def held_bytes(self) -> int:
        """Of the header's copy."""
        return len(self._buffer)

    def parse(self) -> tuple[dict[str, Field], list[StoredTensor], int]:
        """Metadata, tensors, and where the tensors' data begins."""
        self._check_magic_and_version()
        num_tensors, num_fields = self._u64(), self._u64()
        for what, count in (("tensors", num_tensors), ("metadata keys", num_fields)):
            if count > _MAX_ENTRIES:
                raise self._wrong(f"expected at most {_MAX_ENTRIES} {what}, found {count}")
        places = self._places(num_fields)
        tensors: dict[str, StoredTensor] = {}
        for _ in range(num_tensors):
            tensor = self._tensor()
            if tensor.name in tensors:
                raise self._wrong(f"tensor {tensor.name!r} is listed more than once")
            tensors[tensor.name] = tensor
        del self._buffer[self._offset :]
        header = memoryview(self._buffer).toreadonly()
        fields = {
            name: Field(name, f"{self._path}: the metadata key {name!r}", header[start:], kind, count)
            for name, (start, kind, count) in places.items()
        }
        alignment = self._alignment(fields)
        data_offset = -(-self._offset // alignment) * alignment
        return fields, self._placed(list(tensors.values()), data_offset, alignment), data_offset

    def _check_magic_and_version(self) -> None:
        magic = self._take(4)
        if magic != b"GGUF":
            raise self._wrong(f"expected the letters GGUF at its start, found {magic!r}")
        version = self._u32()
        if version & 0xFFFF == 0 and version != 0:
            raise CheckpointError(f"{self._path}: expected a little-endian GGUF file, found a big-endian one")
        if version not in _VERSIONS:
            raise self._wrong(f"expected version {' or '.join(map(str, _VERSIONS))}, found {version}")

    def _places(self, count: int) -> dict[str, tuple[int, gguf.GGUFValueType, int | None]]:
        """Key -> where its value begins, its type or that of its items, and the length of an array."""
        places: dict[str, tuple[int, gguf.GGUFValueType, int | None]] = {}
        for _ in range(count):
            name = self._text("a metadata key")
            if name in places:
                raise self._wrong(f"the metadata key {name!r} is there more than once")
            kind, length = self._value_type(name), None
            if kind == _Type.ARRAY:
                kind, length = self._value_type(name), self._u64()
                if kind == _Type.ARRAY:
                    raise self._wrong(f"the metadata key {name!r} is an array of arrays, which no model has")
            places[name] = (self._offset, kind, length)
            self._skip(name, kind, 1 if length is None else length)
        return places

    def _value_type(self, name: str) -> gguf.GGUFValueType:
        number = self._u32()
        try:
            return _Type(number)
        except ValueError:
            raise self._wrong(f"the metadata key {name!r} has the unknown type {number}") from None

    def _skip(self, name: str, kind: gguf.GGUFValueType, count: int) -> None:
        """Go past `count` values."""
        item_bytes = 8 if kind == _Type.STRING else _SCALARS[kind].itemsize  # at least
        if self._offset + count * item_bytes > self._size:
            raise self._wrong(
                f"truncated: expected {count} values of the metadata key {name!r}, found {self._size} bytes in the file"
            )
        if kind != _Type.STRING:
            self._take(count * item_bytes)
            return
        unpack = _U64.unpack_from
        for _ in range(count):  # the one loop that runs for every token of the vocabulary
            offset = self._offset + 8
            if offset > len(self._buffer):
                self._need(8)
            self._offset = offset + unpack(self._buffer, offset - 8)[0]
        self._need(0)

    def _tensor(self) -> StoredTensor:
        """One entry of the list of tensors; its offset is that in the data, for now."""
        name = self._text("the name of a tensor")
        num_dimensions = self._u32()
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            raise self._wrong(f"tensor {name!r}: expected 1 to {_MAX_DIMENSIONS} dimensions, found {num_dimensions}")
        shape = tuple(reversed([self._u64() for _ in range(num_dimensions)]))
        number = self._u32()
        try:
            kind = gguf.GGMLQuantizationType(number)
        except ValueError:
            raise self._wrong(f"tensor {name!r} has the unknown type {number}") from None
        block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        if shape[-1] % block_elements != 0:
            raise self._wrong(
                f"tensor {name!r} of type {kind.name}: expected rows of a multiple of {block_elements} elements, "
                f"found {shape[-1]}"
            )
        return StoredTensor(name, kind, shape, self._u64(), math.prod(shape) // block_elements * block_bytes)

    def _alignment(self, fields: dict[str, Field]) -> int:
        field = fields.get("general.alignment")
        if field is None:
            return _DEFAULT_ALIGNMENT
        value = field.contents()
        if field.kind != _Type.UINT32 or field.count is not None or value == 0 or value & (value - 1) != 0:
            raise self._wrong(f"general.alignment must be a 32-bit power of two; found {value!r:.80}")
        return int(value)

    def _placed(self, tensors: list[StoredTensor], data_offset: int, alignment: int) -> list[StoredTensor]:
        """The tensors with their offsets in the file, which must be aligned, within it, and apart from each other."""
        end, before = 0, ""
        for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.size)):
            where = f"tensor {tensor.name!r}"
            if tensor.offset % alignment != 0:
                raise self._wrong(
                    f"{where}: expected an offset that is a multiple of {alignment}, found {tensor.offset}"
                )
            if tensor.size and tensor.offset < end:
                raise self._wrong(
                    f"{where} overlaps tensor {before!r}: expected an offset of at least {end}, found {tensor.offset}"
                )
            end, before = max(end, tensor.offset + tensor.size), tensor.name
            if data_offset + end > self._size:
                raise self._wrong(
                    f"truncated: {where} is expected to end at byte {data_offset + end}, found {self._size} bytes"
                )
        return [replace(tensor, offset=data_offset + tensor.offset) for tensor in tensors]

    def _text(self, what: str) -> str:
        length = self._u64()
        try:
            return str(self._take(length), "utf-8")
        except UnicodeDecodeError as error:
            raise self._wrong(f"{what} is not UTF-8: {error}") from error

    def _u32(self) -> int:
        value: int = _U32.unpack(self._take(4))[0]
        return value

    def _u64(self) -> int:
        value: int = _U64.unpack(self._take(8))[0]
        return value

    def _take(self, count: int) -> bytearray:
        self._need(count)
        start, self._offset = self._offset, self._offset + count
        return self._buffer[start : self._offset]

    def _need(self, count: int) -> None:
        """Have the next `count` bytes in the buffer."""
        end = self._offset + count
        if end <= len(self._buffer):
            return
        if end > self._size:
            raise self._wrong(f"truncated: expected {end} bytes or more, found {self._size}")
        if end > _MAX_HEADER_BYTES:
            raise self._wrong(f"expected a header of at most {_MAX_HEADER_BYTES} bytes, found one of {end} or more")
        try:
            self._buffer += self._file.read(max(end, 2 * len(self._buffer), _FIRST_READ) - len(self._buffer))
        except OSError as error:
            raise cannot_be_read(self._path, error) from error
        if end > len(self._buffer):
            raise self._wrong(f"truncated: expected {end} bytes or more, found {len(self._buffer)}")

    def _wrong(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self._path}: not a valid GGUF file: {what}")
