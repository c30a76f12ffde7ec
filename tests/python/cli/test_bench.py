"""tinyllm-bench, through `tinyllm bench`: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cli_process import run_cli

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # a process for each test, and times are measured more than once

SMALL = ["--preset", "smollm2-135m", "--layers", "2", "--vocab", "500", "--no-ceilings", "--repeat", "1"]


def bench(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    return run_cli("bench", *arguments, code=code)


def kernel_rows(report: str) -> list[dict[str, Any]]:
    return [row["values"] for row in json.loads(report)["results"] if row["kind"] == "kernel"]


SHAPE_FLAGS = ("--vocab", "--hidden", "--intermediate", "--layers", "--heads", "--kv-heads", "--head-dim", "--window")
MODEL_FLAGS = ("--preset", "--quantization", "--group-size", "--dtype", "--recompute-activations", *SHAPE_FLAGS)
RUN_FLAGS = ("--device", "--prompt", "--generate", "--batch", "--context", "--max-step-tokens", "--repeat", "--load")
OUTPUT_FLAGS = ("--kernels", "--memory", "--no-ceilings", "--json", "--help")


def test_help_names_every_flag_and_preset() -> None:
    text = bench("--help").stdout
    for flag in (*MODEL_FLAGS, *RUN_FLAGS, *OUTPUT_FLAGS):
        assert f"\n  {flag} " in text
    for preset in ("llama2-7b", "llama3-8b", "llama3.2-1b", "smollm2-135m", "qwen3-8b"):
        assert preset in text


def test_the_command_of_that_name_is_the_program() -> None:
    command = [sys.executable, "-c", "from tinyllm.commands.bench import main; main()", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == bench("--help").stdout


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
    assert all(row["effective_gbps"] > 0 < row["tflops"] for row in rows.values() if "tok_per_s" in row)
    assert rows["memory", None]["peak_bytes"] >= rows["memory", None]["planned_bytes"]


@pytest.mark.parametrize("quantization", ["w8a16", "none"])
def test_loading_is_measured_where_asked_for(device: str, quantization: str, tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    arguments = ["--device", device, "--prompt", "0", "--generate", "0", "--quantization", quantization]
    assert "load " not in bench(*SMALL, *arguments).stdout
    result = bench(*SMALL, *arguments, "--load", "--json", str(target))
    assert re.search(r"^load +[0-9.]+ GB of float16 tensors in [0-9.]+ s, [0-9.]+ GB/s", result.stdout, re.MULTILINE)
    values = {row["kind"]: row["values"] for row in json.loads(target.read_text())["results"]}["load"]
    # 2 layers of SmolLM2-135M (q and o, k and v, the MLP, two norms), 500 rows of its table, the last norm.
    assert values["bytes"] == 2 * (2 * (2 * 576**2 + 2 * 192 * 576 + 3 * 576 * 1536 + 2 * 576) + 500 * 576 + 576)
    assert values["gbps"] == pytest.approx(values["bytes"] / values["seconds"] * 1e-9)
    assert values["peak_host_bytes"] > values["tensor_bytes"] >= values["bytes"]


def test_json_on_standard_output_is_all_there_is() -> None:
    result = bench(*SMALL, "--device", "cpu", "--prompt", "5", "--generate", "2", "--json", "-")
    assert {row["kind"] for row in json.loads(result.stdout)["results"]} >= {"prefill", "decode", "memory"}
    assert "prefill " in result.stderr


def test_kernels_take_the_rows_asked_for() -> None:
    arguments = ["--kernels", "--device", "cpu", "--prompt", "0", "--batch", "3", "--json", "-"]
    rows = kernel_rows(bench(*SMALL, *arguments).stdout)
    assert {(row["phase"], row["rows"]) for row in rows} == {("decode", 3)}


def test_ceilings_are_measured_in_the_same_run() -> None:
    arguments = [argument for argument in SMALL if argument != "--no-ceilings"]
    text = bench(*arguments, "--device", "cpu", "--prompt", "16", "--generate", "2").stdout
    assert "ceilings of this run: read bandwidth" in text
    assert "% of read bandwidth" in text
    assert "% of matrix rate" in text


@pytest.mark.parametrize("settings", [[], ["--quantization", "none", "--dtype", "bfloat16"]], ids=["int8", "none"])
def test_kernels_have_a_row_each(device: str, settings: list[str], tmp_path: Path) -> None:
    target = tmp_path / "kernels.json"
    arguments = ["--kernels", "--device", device, "--prompt", "32", "--context", "100", "--json", str(target)]
    shapes = ["--hidden", "128", "--intermediate", "192", "--heads", "2", "--kv-heads", "1"]
    text = bench(*SMALL, *arguments, *shapes, *settings).stdout
    assert "nan" not in text  # shares of ceilings that were not measured
    rows = {(row["op"], row["phase"], row["rows"]): row for row in kernel_rows(target.read_text())}
    layer = ["embed", "rope_table", "qkv", "qkv_attention", "attention", "o_proj", "gate_up", "down_proj"]
    decode = [*layer, "logits", "sample_greedy", "sample_top_kp"]
    expected = {(op, "decode", count) for op in decode for count in (1, 4, 16, 64)}
    assert set(rows) == expected | {(op, "prefill", 32) for op in layer}
    assert all(row["us"] > 0 for row in rows.values())


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
        (["--load", "--kernels"], "--load loads the whole model"),
        (["--help=yes"], "takes no value"),
        (["extra"], "unknown flag 'extra'"),
        (["--memory", "--batch", "1,2"], "--memory shows one batch"),
        (["--json", "/nowhere/at/all"], "--json /nowhere/at/all: No such file or directory"),
        (["--prompt", "1,"], "--prompt : expected a whole number"),
        (["--batch", "0"], "--batch 0: expected a whole number of at least 1"),
        (["--context", "0"], "--context 0: expected a whole number of at least 1"),
        (["--generate", "-1"], "--generate -1: expected a whole number of at least 0"),
        (["--repeat", "99999999999"], "--repeat 99999999999: expected a whole number"),
        (["--quantization", "int4"], "--quantization int4: expected one of w8a16, none"),
        (["--dtype", "float64"], "--dtype float64: expected one of float16, bfloat16, float32"),
        (["--device", "cuda:x"], "--device x: expected a whole number"),
        (["--heads", "7"], "num_heads = 7"),
        (["--heads", "16777216", "--head-dim", "512"], "num_heads = 16777216"),
        (["--heads", "6144", "--head-dim", "512"], "at most 1048576 / head_dim"),
        (["--layers", "16777216"], "num_layers = 16777216 is not supported; expected 1 to 1024"),
        (["--generate", "2147483647"], "--generate 2147483647: expected a whole number of at least 0, at most"),
        (["--head-dim", "3"], "head_dim = 3"),
    ],
)
def test_a_wrong_flag_is_an_error(arguments: list[str], words: str) -> None:
    result = bench(*arguments, code=2)
    assert words in result.stderr
    assert result.stdout == ""
