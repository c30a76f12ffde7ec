"""What a test needs of the machine, and what happens without it."""

from __future__ import annotations

import re
from typing import NoReturn

import pytest

import tinyllm
from ops_api import instruction_set


def skip_or_fail(config: pytest.Config, reason: str) -> NoReturn:
    """Skip the test, or fail it with --require-gpu, which says that this machine has everything."""
    if config.getoption("--require-gpu"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def require_gpu(config: pytest.Config) -> None:
    """Skip (or, with --require-gpu, fail) the test unless a GPU is there that tinyllm can run on."""
    gpus = [device for device in tinyllm.devices() if device.kind == "cuda"]
    if any(gpu.usable for gpu in gpus):
        return
    found = "; ".join(f"{gpu.device}: {gpu.description}" for gpu in gpus) or "this machine or build has none"
    skip_or_fail(config, f"no usable GPU: {found}")


def cpu_has(isa: str) -> bool:
    """Whether this processor runs an instruction set: the library names the one in use where it is allowed this one."""
    with instruction_set(isa):
        return isa in re.split(r"\W+", tinyllm.devices()[0].description)
