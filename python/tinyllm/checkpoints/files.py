"""Files of a checkpoint: opened so that nothing but a regular file is read, and known again when they are read later.

A checkpoint is read twice, its header first and its tensors later, one by one. `StoredFile` remembers which file the
header came from, so that one that is replaced or written to in between is an error and not a model of mixed parts.
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

_MAX_JSON_BYTES = 64 << 20  # the index of a large model takes a few megabytes
_MAX_JSON_DEPTH = 64

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading. CheckpointError for anything else, at once: a pipe is not waited for."""
    try:
        file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115
    except IsADirectoryError:
        raise CheckpointError(f"{path}: expected a regular file, found a directory") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL or a lone surrogate in the name
        raise cannot_be_read(path, error) from error
    try:
        kind = stat.S_IFMT(os.fstat(file.fileno()).st_mode)
        if kind != stat.S_IFREG:
            raise CheckpointError(f"{path}: expected a regular file, found {_KINDS.get(kind, 'something else')}")
    except BaseException:
        file.close()
        raise
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def cannot_be_read(path: Path | str, error: OSError | ValueError) -> CheckpointError:
    """The error for a path that the operating system refuses."""
    return CheckpointError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")


def exists(path: Path) -> bool:
    """Whether there is anything at `path`. CheckpointError where that cannot be told."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise cannot_be_read(path, error) from error
    return True


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a UTF-8 file. CheckpointError if the file is missing, malformed or not an object."""
    with open_file(path) as file:
        try:
            content = file.read(_MAX_JSON_BYTES + 1)
        except OSError as error:
            raise cannot_be_read(path, error) from error
    if len(content) > _MAX_JSON_BYTES:
        raise CheckpointError(f"{path}: expected a JSON file of at most {_MAX_JSON_BYTES} bytes, found a larger one")
    return parse_json_object(content, str(path))


def parse_json_object(content: bytes, source: str) -> dict[str, Any]:
    """The JSON object in UTF-8 bytes; `source` names them in the CheckpointError for anything else."""
    try:
        values = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # malformed JSON, not UTF-8, or nested beyond reason
        raise CheckpointError(f"{source}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{source}: expected a JSON object, found {type(values).__name__}")
    # Deeper values would make Python's own comparisons and messages recurse without end.
    if _is_deeper(values, _MAX_JSON_DEPTH):
        raise CheckpointError(f"{source}: expected JSON nested at most {_MAX_JSON_DEPTH} deep, found more")
    return values


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        containers = [item for item in level if isinstance(item, (dict, list))]
        level = [inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return False
    return any(isinstance(item, (dict, list)) for item in level)


@dataclass(frozen=True)
class StoredFile:
    """A file as it was when its header was read."""

    path: Path
    size: int
    _state: tuple[int, int, int]  # device, inode and time of the last change

    @staticmethod
    def of(file: BinaryIO, path: Path) -> StoredFile:
        """What is open as `file`."""
        status = os.fstat(file.fileno())
        return StoredFile(path, status.st_size, (status.st_dev, status.st_ino, status.st_mtime_ns))

    def open(self) -> BinaryIO:
        """Open it again. CheckpointError if it is gone or another one."""
        file = open_file(self.path)
        try:
            self._require_same(StoredFile.of(file, self.path))
        except BaseException:
            file.close()
            raise
        return file

    def require_unchanged(self) -> None:
        """CheckpointError if the file was replaced or written to since its header was read."""
        self.open().close()

    def _require_same(self, now: StoredFile) -> None:
        if now != self:
            raise CheckpointError(
                f"{self.path}: the file was changed while it was read: expected {self.size} bytes of the file that was "
                f"opened first, found {now.size} bytes{'' if now.size != self.size else ' of another version'}; load "
                "the model again"
            )

    def map_array(self, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> np.ndarray:
        """Memory-map `shape` elements, little-endian, `offset` bytes from the start; read-only.

        Every call maps its own range, and the mapping ends with the array. One mapping for the whole file would let the
        resident size of the process grow to the size of the file while it is read.
        """
        size = math.prod(shape) * dtype.itemsize
        if size == 0:
            return np.empty(shape, dtype)
        before = offset % mmap.ALLOCATIONGRANULARITY
        try:
            with self.open() as file:
                mapping = mmap.mmap(file.fileno(), before + size, offset=offset - before, access=mmap.ACCESS_READ)
        except (OSError, ValueError, OverflowError) as error:
            if getattr(error, "errno", None) == errno.ENOMEM:
                raise MemoryError(f"{size} bytes cannot be mapped") from error
            raise CheckpointError(f"{self.path}: {size} bytes at {offset} cannot be read: {error}") from error
        array = np.frombuffer(mapping, np.uint8, size, before).view(dtype).reshape(shape)
        return array if array.flags.aligned else array.copy()
