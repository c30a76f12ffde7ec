"""tinyllm-bench, through `tinyllm bench`: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from cli_process import run_cli

SMALL = ["--preset", "smollm2-135m", "--layers", "2", "--vocab", "500", "--no-ceilings", "--repeat", "1"]


def bench(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    return run_cli("bench", *arguments, code=code)


def test_help_names_every_flag_and_preset() -> None:
    text = bench("--help").stdout
    flags = ("--preset", "--device", "--prompt", "--generate", "--batch", "--context", "--quantization", "--group-size")
    for word in (*flags, "--kernels", "--memory", "--json", "--repeat", "llama2-7b", "qwen3-8b"):
        assert word in text


@pytest.mark.parametrize("quantization", ["w8a16", "none"])
def test_speed_is_printed_and_written(device: str, quantization: str, tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    arguments = ["--device", device, "--prompt", "70,5", "--generate", "4", "--batch", "1,3", "--context", "200"]
    result = bench(*SMALL, *arguments, "--quantization", quantization, "--json", str(target))
    assert result.stdout.count("prefill ") == 2
    assert result.stdout.count("decode ") == 2
    report = json.loads(target.read_text())
    rows = {
        (row["kind"], row["values"].get("tokens", row["values"].get("batch"))): row["values"]
        for row in report["results"]
    }
    assert rows["decode", 3]["tok_per_s"] == pytest.approx(3000 / rows["decode", 3]["tpot_ms"])
    assert rows["prefill", 70]["ttft_ms"] > 0
    assert rows["memory", None]["peak_bytes"] >= rows["memory", None]["planned_bytes"]


def test_ceilings_are_measured_in_the_same_run() -> None:
    arguments = [argument for argument in SMALL if argument != "--no-ceilings"]
    text = bench(*arguments, "--device", "cpu", "--prompt", "16", "--generate", "2").stdout
    assert "ceilings of this run: read bandwidth" in text
    assert "% of read bandwidth" in text
    assert "% of matrix rate" in text


def test_kernels_have_a_row_each(device: str) -> None:
    text = bench(*SMALL, "--kernels", "--device", device, "--prompt", "32", "--context", "100").stdout
    for op in ("o_proj", "gate_up", "down_proj", "logits", "attention"):
        assert f"\n{op} " in text


def test_memory_is_printed_without_the_device() -> None:
    text = bench("--memory", "--preset", "llama2-7b", "--device", "cpu", "--context", "2048").stdout
    assert "6607077376" in text  # int8 weights of 7B: all layers and the output matrix
    assert " 4096 tokens         2048         8192        16384" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--frobnicate"], "unknown flag '--frobnicate'"),
        (["--preset", "gpt5"], "unknown preset 'gpt5'; known: llama2-7b"),
        (["--batch", "1,x"], "--batch x: expected a whole number of at least 1"),
        (["--batch"], "--batch needs a value"),
        (["--device", "tpu"], "--device tpu: expected one of cpu, cuda"),
        (["--group-size", "33"], "group_size = 33"),
        (["--help=yes"], "takes no value"),
    ],
)
def test_a_wrong_flag_is_an_error(arguments: list[str], words: str) -> None:
    result = bench(*arguments, code=2)
    assert words in result.stderr
    assert result.stdout == ""
