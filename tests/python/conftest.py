"""Fixtures, options and Hypothesis settings shared by the Python tests."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

import testing_library
import tinyllm
from needs import cpu_has, require_gpu, skip_or_fail
from ops_types import CPU_INSTRUCTION_SETS, Target

# A run's verdict depends on the code alone: the same examples every time, and no deadline, whatever the machine.
# HYPOTHESIS_PROFILE=explore looks for new examples, more of them.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", max_examples=1000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


testing_library.choose()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-gpu",
        action="store_true",
        help="fail, instead of skipping, tests that find no usable GPU or no model",
    )
    parser.addoption(
        "--without-smollm2",
        action="store_true",
        help="leave out the tests of SmolLM2-135M-Instruct, for machines that have neither its file nor a network",
    )


def pytest_sessionstart() -> None:
    problem = testing_library.problem()
    if problem:
        raise pytest.UsageError(problem)


def pytest_configure(config: pytest.Config) -> None:
    # Many tests run tiny models past their context on purpose; the warning of it has a test of its own.
    config.addinivalue_line("filterwarnings", "ignore:.*a context of .* tokens is beyond the:UserWarning")


@pytest.hookimpl(tryfirst=True)  # before -m is applied
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    real_model = [item for item in items if "smollm2_gguf" in getattr(item, "fixturenames", ())]
    for item in real_model:
        item.add_marker("slow")
    if not config.getoption("--without-smollm2"):
        return
    left_out = real_model
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session", params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """Each kind of device; tests of one that this machine lacks are skipped."""
    if request.param == "cuda":
        require_gpu(request.config)
    return request.param


@pytest.fixture(scope="session", params=[f"cpu-{isa}" for isa in CPU_INSTRUCTION_SETS] + ["cuda"])
def op_target(request: pytest.FixtureRequest) -> Target:
    """Each set of kernels: the CPU's by instruction set, and the GPU's."""
    kind, _, isa = request.param.partition("-")
    if kind == "cuda":
        require_gpu(request.config)
        return Target(device="cuda")
    if not cpu_has(isa):
        pytest.skip(f"this processor has no {isa}")
    return Target(device="cpu", isa=isa)


@pytest.fixture(scope="session", params=["cuda"])
def cuda_target(request: pytest.FixtureRequest) -> Target:
    """The GPU's kernels, for cases that sit on their switches and are too large for every set of the CPU's."""
    require_gpu(request.config)
    return Target(device=request.param)


@pytest.fixture(scope="session")
def smollm2_gguf(request: pytest.FixtureRequest) -> Path:
    """SmolLM2-135M-Instruct as a GGUF file: the one TINYLLM_TEST_GGUF names, else the demo's, fetched if need be."""
    path = os.environ.get("TINYLLM_TEST_GGUF")
    if path:
        return Path(path)
    from tinyllm import demo

    try:
        return demo.fetch(progress=False)
    except (tinyllm.TinyllmError, OSError) as error:
        reason = f"SmolLM2-135M-Instruct could not be fetched ({error}); TINYLLM_TEST_GGUF can name a copy"
        skip_or_fail(request.config, reason)
