"""Who owns a native object: it is destroyed once, and no interrupt can lose it.

An exception of a signal handler, Ctrl-C for one, may come between any two steps of Python code, in finalizers too,
where it is lost together with what the finalizer still had to do. So the library writes a new handle straight into
memory that is registered here before, and takes it out again as it destroys the object; between the two nothing
depends on Python code having run. What a lost finalizer left behind is destroyed when the next object is made.
"""

from __future__ import annotations

import atexit
import weakref
from ctypes import byref, c_void_p
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class _Entry(NamedTuple):
    owner: weakref.ref[NativeObject]
    handle: c_void_p  # null before the object is made and after it is destroyed
    destroy: Callable[[Any], None]
    at_exit: Callable[[c_void_p], int] | None
    keep: Any


_entries: dict[int, _Entry] = {}


class NativeObject:
    """Base of what has a native handle."""

    def __init__(
        self, destroy: Callable[[Any], None], at_exit: Callable[[c_void_p], int] | None = None, keep: Any = None
    ) -> None:
        """The object is made afterwards, by a call that writes to `byref(self.handle)`.

        Args:
            destroy: takes a pointer to the handle; sets it to null. A null handle is nothing to destroy.
            at_exit: takes the handle when the interpreter exits, where other threads may still be using it.
            keep: stays alive until the object is destroyed.
        """
        _sweep()
        self.handle = c_void_p()
        _entries[id(self.handle)] = _Entry(weakref.ref(self), self.handle, destroy, at_exit, keep)

    def __del__(self) -> None:
        entry = _entries.get(id(getattr(self, "handle", None)))
        if entry is not None:
            _destroy(entry)


def _destroy(entry: _Entry) -> None:
    # Only then is the entry dropped, and with it what the object needs: interrupted between the two, the next sweep
    # finds a null handle.
    entry.destroy(byref(entry.handle))
    _entries.pop(id(entry.handle), None)


def _sweep() -> None:
    """Destroys what lost its owner without being destroyed."""
    for entry in list(_entries.values()):
        if entry.owner() is None:
            _destroy(entry)


@atexit.register
def _close_all() -> None:
    for entry in list(_entries.values()):
        if entry.at_exit is not None and entry.handle:
            entry.at_exit(entry.handle)
