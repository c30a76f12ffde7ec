"""The command `tinyllm`: demo, generate, chat, info, plan, bench, devices."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import TinyllmError
from . import add_commands

if TYPE_CHECKING:
    from collections.abc import Sequence


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="tinyllm",
        description="Run language models with int8 weights on a GPU or a CPU.",
        epilog="'tinyllm COMMAND --help' explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"tinyllm {__version__}")
    add_commands(parser.add_subparsers(dest="command", metavar="COMMAND", required=True))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with a message on standard error, 2 for wrong usage, 130 after Ctrl-C."""
    args = build_parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except (TinyllmError, ValueError) as error:
        print(f"tinyllm: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; Python must not complain about it again when it flushes at exit.
        sys.stdout = None
        return 0


if __name__ == "__main__":
    sys.exit(main())
