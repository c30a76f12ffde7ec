"""The subcommands of `tinyllm`, one module each, with `add(subparsers)` and `run(args)`."""

from __future__ import annotations

from typing import Any

from . import bench, chat, demo, devices, generate, info, plan

_COMMANDS = (demo, generate, chat, info, plan, bench, devices)


def add_commands(subparsers: Any) -> None:
    """Register every subcommand."""
    for command in _COMMANDS:
        command.add(subparsers)
    for parser in subparsers.choices.values():
        parser.set_defaults(parser=parser)
