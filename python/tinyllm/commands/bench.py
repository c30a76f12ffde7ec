"""`tinyllm bench` and `tinyllm-bench`: the installed native program."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from .._native.library import library_path
from ..errors import TinyllmError
from .console import say

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "bench",
        help="measure speed (runs tinyllm-bench)",
        description="Runs tinyllm-bench; all arguments go to it. With --python first: how much of the native rate\n"
        "reaches Python (tinyllm bench --python --help).",
        add_help=False,
        prefix_chars="\0",  # so that its flags are not taken for ours
    )
    parser.add_argument("arguments", nargs="*")
    parser.set_defaults(run=run)


def bench_path() -> Path:
    """The program beside the library: in the installed package or in a build tree."""
    library = library_path()
    candidates = (library.parent.parent / "bin" / "tinyllm-bench", library.parent / "tinyllm-bench")
    for path in candidates:
        if os.access(path, os.X_OK):
            return path
    raise TinyllmError(f"tinyllm-bench was not found at {' or '.join(map(str, candidates))}; reinstall tinyllm")


def run(args: argparse.Namespace) -> int:
    if args.arguments[:1] == ["--python"]:
        from . import bench_python

        return bench_python.run(bench_path(), args.arguments[1:])
    return subprocess.run([bench_path(), *args.arguments], check=False).returncode


def main() -> NoReturn:
    """The command `tinyllm-bench`: the installed program in place of this process."""
    try:
        path = bench_path()
    except TinyllmError as error:
        say(f"tinyllm-bench: error: {error}")
        sys.exit(1)
    os.execv(path, [str(path), *sys.argv[1:]])
