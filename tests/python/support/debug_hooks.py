"""The memory of all engines of this process: the hooks tl_debug_* of native/testing/testing.h."""

from __future__ import annotations

from ctypes import c_int64, c_uint64

from tinyllm._native.library import library


def live_bytes() -> int:
    """Bytes alive in all trackers: 0 when no engine exists."""
    hook = library().tl_debug_live_bytes
    hook.restype = c_uint64
    return hook()


def fail_allocation(countdown: int) -> None:
    """The `countdown`-th tracked allocation from now on (1: the next) fails; 0 switches it off."""
    library().tl_debug_fail_allocation(c_int64(countdown))
