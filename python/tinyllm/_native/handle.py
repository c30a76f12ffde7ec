"""Who may use an engine handle, and when it is destroyed: never under a call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_void_p

from ..errors import ClosedError


class EngineHandle:
    """A handle and the native calls that are using it, from any thread. It is destroyed once, when there are none.

    An object of its own, because the finalizer of a `NativeEngine` must not refer to the engine.
    """

    def __init__(self, handle: c_void_p, destroy: Callable[[c_void_p], None]) -> None:
        self._handle = handle
        self._destroy_handle = destroy
        self._condition = threading.Condition()  # guards everything below
        self._calls: set[object] = set()
        self._closing = False
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether new calls are refused; the last ones may still be running."""
        return self._closing or self._closed

    @contextmanager
    def in_use(self) -> Iterator[c_void_p]:
        """The handle for one native call. ClosedError once the engine is closed; then no other call is running."""
        call = object()
        try:
            with self._condition:
                while self._closing:
                    self._condition.wait()
                if self._closed:
                    raise ClosedError("this model is closed; load it again")
                self._calls.add(call)
            yield self._handle
        finally:  # an interrupt may come before the call was added
            with self._condition:
                self._calls.discard(call)
                self._condition.notify_all()

    def close(self) -> None:
        """Destroy the engine after the calls that are running now. Closing twice is allowed."""
        with self._condition:
            self._closing = True
            try:
                while self._calls:
                    self._condition.wait()
                self._destroy()
            finally:
                self._closing = False
                self._condition.notify_all()

    def finalize(self) -> None:
        """For the garbage collector and the interpreter's exit, which must not wait.

        A call can be running only at exit, in a daemon thread: nothing stops that one, so the engine is left to the
        end of the process.
        """
        with self._condition:
            if self._calls:
                self._closed = True
            else:
                self._destroy()

    def _destroy(self) -> None:
        if not self._closed:
            self._closed = True
            self._destroy_handle(self._handle)
