"""The library that the tests load in place of libtinyllm.so.

It is libtinyllm_testing.so, made of the same objects and the test hooks. It is never installed, so it is looked for
where it was built.
"""

from __future__ import annotations

import os
from pathlib import Path

import tinyllm
from tinyllm._native.library import library, library_path

# What `pip install` builds in, by pyproject.toml.
WHEEL_BUILD = Path(__file__).resolve().parents[3] / "build" / "wheel"
_ADVICE = (
    "run 'pip install .' in this folder, which builds it under build/wheel, or set TINYLLM_LIBRARY to "
    "native/libtinyllm_testing.so of a build tree"
)


def choose() -> None:
    """Has this process and its children load what TINYLLM_LIBRARY names or, where it is not set, what pip has built."""
    os.environ.setdefault("TINYLLM_LIBRARY", str(WHEEL_BUILD / "native" / "libtinyllm_testing.so"))


def problem() -> str:
    """Why the tests cannot run with the library that was chosen, and what to do; empty if they can."""
    path = library_path()
    if not path.exists():
        return f"the tests need libtinyllm_testing.so, but there is no {path}; {_ADVICE}"
    try:
        has_hooks = hasattr(library(), "tl_debug_live_bytes")
    except tinyllm.TinyllmError as error:
        return str(error)
    return "" if has_hooks else f"TINYLLM_LIBRARY={path} has no test hooks; {_ADVICE}"
