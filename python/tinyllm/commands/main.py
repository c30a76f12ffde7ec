"""The command `tinyllm`: demo, generate, chat, info, plan, bench, devices."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import TinyllmError
from . import add_commands, console
from .words import in_flags

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse's own, which passes over an output that cannot be written."""
        (file or sys.stderr).write(message)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="tinyllm",
        description="Run language models with int8 weights on a GPU or a CPU.",
        epilog="'tinyllm COMMAND --help' explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"tinyllm {__version__}")
    add_commands(parser.add_subparsers(dest="command", metavar="COMMAND", required=True))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with a message on standard error, 2 for wrong usage, 130 after Ctrl-C."""
    args = argparse.Namespace(parser=None)
    try:
        console.prepare()
        args = _parse(argv)
        code = args.run(args) or 0
    except SystemExit as exit:  # argparse's: after --help and --version, and for wrong usage
        code = exit.code if isinstance(exit.code, int) else 1
    except (TinyllmError, ValueError) as error:
        console.say(f"tinyllm: error: {in_flags(error, args.parser)}")
        code = 1
    except MemoryError:
        console.say("tinyllm: error: out of host memory")
        code = 1
    except KeyboardInterrupt:
        console.say("")
        code = 130
    except OSError as error:
        if error.filename is None:
            return console.give_up_output(error)
        console.say(f"tinyllm: error: {error.filename}: {error.strerror}")
        code = 1
    return console.finish(code)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments. What a command does not know is reported with the usage of that command."""
    args, unknown = build_parser().parse_known_args(argv)
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
