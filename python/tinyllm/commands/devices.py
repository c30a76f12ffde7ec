"""`tinyllm devices`: what this machine and this build have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._native.devices import devices
from ..memory.report import format_bytes

if TYPE_CHECKING:
    import argparse


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("devices", help="list the devices", description="Lists the CPU and every GPU.")
    parser.set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    for device in devices():
        state = "usable" if device.usable else "NOT usable"
        memory = f"{format_bytes(device.free)} free of {format_bytes(device.total)}"
        print(f"{device.device:<8} {device.name}: {state}, {memory}; {device.description}")
    return 0
