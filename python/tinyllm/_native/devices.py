"""The devices that this build of tinyllm can see."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import ConfigError
from . import engine as native

_KIND_NAMES = {number: name for name, number in native.DEVICE_KINDS.items()}
_DEVICE = re.compile(r"(cpu|cuda)(?::(\d+))?")


@dataclass(frozen=True)
class Device:
    """One device. `device` is the string that `load` takes; memory is in bytes, as it is now."""

    device: str  # "cpu", "cuda:0", ...
    kind: str  # "cpu" or "cuda"
    index: int
    name: str
    usable: bool  # tinyllm can run a model here
    description: str  # instruction sets in use, or why the device is not usable
    compute_capability: tuple[int, int] | None  # of a GPU
    num_units: int  # CPU threads that are used, or streaming multiprocessors
    free: int
    total: int


def devices() -> list[Device]:
    """The CPU first, then every GPU the driver shows, usable or not."""
    result = []
    for info in native.device_infos():
        kind = _KIND_NAMES[info.device_kind]
        is_cpu = kind == "cpu"
        result.append(
            Device(
                device="cpu" if is_cpu else f"{kind}:{info.device_index}",
                kind=kind,
                index=info.device_index,
                name=info.name.decode(errors="replace"),
                usable=bool(info.usable),
                description=info.description.decode(errors="replace"),
                compute_capability=None if is_cpu else divmod(info.compute_capability, 10),
                num_units=info.num_units,
                free=info.free_bytes,
                total=info.total_bytes,
            )
        )
    return result


def parse_device(name: str) -> tuple[str, int] | None:
    """(kind, index) of a device name; None for "auto". The device need not exist."""
    if name == "auto":
        return None
    match = _DEVICE.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise ConfigError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N'; got {name!r}")
    return match[1], int(match[2] or 0)


def kind_of_device(name: str) -> str:
    """The kind, "cpu" or "cuda", of a device name, which need not exist; of "auto" as `resolve_device` would choose."""
    wanted = parse_device(name)
    return resolve_device(name).kind if wanted is None else wanted[0]


def resolve_device(name: str) -> Device:
    """The device a user asked for: "auto" (the first usable GPU, else the CPU), "cpu", "cuda" or "cuda:N".

    Raises ConfigError if there is no such device, or it cannot be used, saying why.
    """
    wanted = parse_device(name)
    found = devices()
    if wanted is None:
        return next((device for device in found if device.kind == "cuda" and device.usable), found[0])
    for device in found:
        if (device.kind, device.index) == wanted:
            if not device.usable:
                raise ConfigError(f"device {device.device} ({device.name}) cannot be used: {device.description}")
            return device
    known = ", ".join(device.device for device in found)
    raise ConfigError(f"device {name!r} was not found; this machine and build have: {known}")
