"""libtinyllm.so: where it is, its functions, and its errors as exceptions. `call` is how the package calls it."""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import Structure, byref, c_int32
from pathlib import Path
from typing import Any

from ..errors import (
    CheckpointError,
    ClosedError,
    ConfigError,
    CudaError,
    NotFiniteError,
    OutOfMemoryError,
    TinyllmError,
)
from .abi import ABI_VERSION, FUNCTIONS, OTHER_FUNCTIONS

# tl_status -> exception. A wrong argument is a ValueError like a wrong configuration.
_ERRORS = {
    1: ConfigError,
    2: ConfigError,
    3: CheckpointError,
    4: OutOfMemoryError,
    5: CudaError,
    6: TinyllmError,
    7: ClosedError,
    8: NotFiniteError,
}


def library_path() -> Path:
    """Where libtinyllm.so is: TINYLLM_LIBRARY if set (a build tree, for example), else beside this package."""
    override = os.environ.get("TINYLLM_LIBRARY")
    return Path(override) if override else Path(__file__).parents[1] / "lib" / "libtinyllm.so"


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library with all signatures set. TinyllmError if it is missing or of another ABI version."""
    path = library_path()
    try:
        # ctypes releases the GIL during every call of a CDLL.
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        raise TinyllmError(
            f"the native library {path} could not be loaded ({error}); install the package with 'pip install .', or "
            "set TINYLLM_LIBRARY to a built libtinyllm.so"
        ) from error
    lib.tl_abi_version.restype = c_int32
    if lib.tl_abi_version() != ABI_VERSION:
        raise TinyllmError(
            f"{path} has ABI version {lib.tl_abi_version()}, this package needs {ABI_VERSION}; reinstall tinyllm"
        )
    for name, argtypes in FUNCTIONS.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = argtypes, c_int32
    for name, (argtypes, restype) in OTHER_FUNCTIONS.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = argtypes, restype
    return lib


def call(name: str, *args: Any) -> None:
    """Call a function that returns a tl_status; raise the matching exception with the native message."""
    lib = library()
    status = getattr(lib, name)(*args)
    if status != 0:
        raise error_of(status, lib.tl_last_error().decode())


def error_of(status: int, message: str) -> Exception:
    """The exception of a tl_status that is not OK."""
    error: Exception = _ERRORS.get(status, TinyllmError)(message)
    return error


def read_list(name: str, item: type[Structure], *args: Any) -> list[Any]:
    """The items of a function with the (entries, capacity, count) convention."""
    count = c_int32()
    call(name, *args, None, 0, byref(count))
    items = (item * count.value)()
    call(name, *args, items, count.value, byref(count))
    return list(items[: min(count.value, len(items))])
