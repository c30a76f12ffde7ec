"""What a model takes from a GPU, by the driver's own count of free bytes.

Nothing that is not planned or reported, all of it back at close, and a full GPU is an error that harms nobody.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gpu_memory_runs
from model_files import write_model
from needs import require_gpu
from tinyllm import ModelConfig

MB = 1 << 20
STEP = 2 * MB  # the driver counts in steps of 2 MB, so nothing is known more finely
POOL_STEP = 32 * MB  # what the driver gives a memory pool at a time


@pytest.fixture(scope="session", autouse=True)
def gpu(request: pytest.FixtureRequest) -> None:
    """Skips these tests where other processes may move the driver's count too.

    --require-gpu promises the GPU to the tests alone (tools/gpu_check.sh): there nothing is allowed for or repeated.
    """
    require_gpu(request.config)
    if not request.config.getoption("--require-gpu"):
        pytest.skip("counts the driver's free bytes: needs the GPU for itself, which --require-gpu promises")


@functools.cache
def run(name: str, *arguments: str) -> Any:
    """The JSON of a run of gpu_memory_runs.py."""
    command = [sys.executable, str(Path(gpu_memory_runs.__file__)), name, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_every_architecture_has_what_is_planned() -> None:
    rows = run("architectures")
    assert len(rows) > 100
    for row in rows:
        assert row["actual"] == row["planned"], row
        assert row["peak"] == row["peak_planned"], row


def test_the_driver_lost_what_is_tracked_and_reported() -> None:
    for row in run("architectures"):
        driver = row["driver"]
        assert row["lost"] == sum(row["actual"].values()) + sum(driver.values()), row
        assert abs(row["lost_by_nvml"] - row["lost"]) <= STEP, row
        assert abs(driver["unexplained"]) <= STEP, row
        assert 0 <= driver["pool"] < POOL_STEP, row
        assert driver["other models"] == 0, row
        assert driver["context"] > 0, row
        assert driver["modules"] > 0, row
        assert driver["code reserve"] == 8 * MB, row


def test_closing_gives_everything_back_but_context_and_modules() -> None:
    rows = run("architectures")
    for row in rows:
        kept = row["driver"]["context"] + row["driver"]["modules"]
        assert abs(row["lost_after_close"] - kept) <= STEP, row
    # The second time around there is nothing left to load, and not a byte may go.
    assert {row["lost_after_close"] for row in rows if row["turn"] == 2} == {rows[-1]["lost_after_close"]}


def test_a_failed_load_gives_everything_back() -> None:
    result = run("injected")
    assert len(result["frees"]) > 40
    assert set(result["frees"]) == {result["start"]}
    assert result["live"] == 0


def test_a_full_gpu_is_an_error_and_what_runs_goes_on() -> None:
    result = run("full")
    assert result["free"] < 8 * MB  # the reserve; the driver counts some bytes as free that it does not give
    assert result["running"] == [result["expected"]] * 3
    *steps, load = result["errors"]
    assert steps == [""] * 4  # the code of new kernels went into the reserve
    assert load  # an OutOfMemoryError
    assert result["live_same"]
    assert result["sampled"] == result["sampled_expected"]
    assert result["fresh"] == result["fresh_expected"]


def test_an_automatic_cache_fills_the_fraction_of_the_gpu(tmp_path: Path) -> None:
    # 20 KB of cache a token: 64 sequences of a million tokens would take more than a terabyte.
    config = ModelConfig(
        vocab_size=1024, hidden_dim=1024, intermediate_dim=2048, num_layers=5, num_heads=8, tie_word_embeddings=True
    )
    write_model(tmp_path / "long", config, context=1 << 20)
    for row in run("automatic", str(tmp_path / "long")):
        assert row["actual"] == row["planned"]
        assert row["planned"] <= row["fraction"] * row["free"]
        sequence = row["page_bytes"] * row["context"] // 64
        assert row["planned"] + sequence + 128 * MB > row["fraction"] * row["free"]
        assert row["left"] >= (1 - row["fraction"]) * row["free"] - STEP
