"""The commands `tinyllm`, also as `python -m tinyllm`, and `tinyllm-bench`.

What takes time is imported inside `main`, so that Ctrl-C finds somebody there to answer it from the beginning.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command; its exit code."""
    try:
        from .commands.main import main as run

        return run()
    except KeyboardInterrupt:
        return 130


def bench() -> int:
    """Become `tinyllm-bench`; this returns after an interrupt only."""
    try:
        from .commands.bench import main as run

        run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
