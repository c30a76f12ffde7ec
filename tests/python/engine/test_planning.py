"""The planner: bytes of the specification, what fits, the page of tables, the command line."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import memory_tables
import tinyllm
from cli_process import run_cli
from reference import CASES, DATA, ReferenceCase
from tinyllm import KVCacheConfig, ModelConfig, QuantizationType
from tinyllm._native import engine as native
from tinyllm.commands.plan import parse_size
from tinyllm.memory.planning import auto_kv_cache
from tinyllm.memory.report import format_bytes

if TYPE_CHECKING:
    import subprocess

ROOT = Path(__file__).resolve().parents[3]
MB, GB = 1 << 20, 1 << 30
LLAMA2_7B = ModelConfig(
    vocab_size=32000, hidden_dim=4096, intermediate_dim=11008, num_layers=32, num_heads=32, max_seq_len=4096
)


def plan_7b(batch: int = 1, context: int = 2048, **options: object) -> tinyllm.MemoryPlan:
    return tinyllm.plan(LLAMA2_7B, "cpu", kv_cache=KVCacheConfig(batch, context), **options)


def test_weights_are_those_of_the_specification() -> None:
    sizes = {entry.name: entry.bytes for entry in plan_7b().entries}
    assert sizes["layers.0.qkv.weight"] == 48 * MB
    assert sizes["layers.0.o_proj.weight"] == 16 * MB
    assert sizes["layers.0.gate_up.weight"] + sizes["layers.0.down_proj.weight"] == 129 * MB
    assert sizes["layers.0.qkv.scales"] * 64 == sizes["layers.0.qkv.weight"]
    half = {entry.name: entry.bytes for entry in plan_7b(quantization=QuantizationType.NONE).entries}
    assert half["layers.0.qkv.weight"] == 96 * MB
    assert "layers.0.qkv.scales" not in half
    layers = [size for name, size in sizes.items() if name.startswith("layers.") and name.endswith(".weight")]
    assert sum(layers) == 32 * 193 * MB


@pytest.mark.parametrize(("context", "one"), [(512, 256 * MB), (1024, 512 * MB), (2048, GB), (4096, 2 * GB)])
def test_the_kv_cache_is_that_of_the_specification(context: int, one: int) -> None:
    for batch in (1, 4, 8):
        assert plan_7b(batch, context).components["kv_cache"] == batch * one


def test_activations_stay_under_the_limits() -> None:
    for chunk in (None, 2048):
        kept, again = (
            plan_7b(recompute_activations=recompute, max_step_tokens=chunk).components["activations"]
            for recompute in (False, True)
        )
        assert kept < 110 * MB
        assert again <= kept / 2


def test_group_sizes_and_types_change_the_scales_only() -> None:
    base = plan_7b()
    row = plan_7b(group_size=0)
    assert row.components["weights"] == base.components["weights"]
    assert {entry.shape[1] for entry in row.entries if entry.component == "scales"} == {1}
    assert plan_7b(group_size=32).components["scales"] == 4 * base.components["scales"]


@pytest.mark.parametrize("options", [{}, {"group_size": 32}, {"quantization": "none"}, {"recompute_activations": True}])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_plan_is_what_a_loaded_model_has(case: ReferenceCase, device: str, options: dict[str, object]) -> None:
    for cache in (KVCacheConfig(1, 100), KVCacheConfig(3, 192, num_pages=5)):
        planned = tinyllm.plan(case.path, device, kv_cache=cache, **options)
        with tinyllm.load(case.path, device, kv_cache=cache, **options) as model:
            report = model.memory()
            assert report.actual == planned.components
            assert report.entries == planned.entries


def test_the_real_model_costs_what_is_planned(smollm2_gguf: Path, device: str) -> None:
    planned = tinyllm.plan(smollm2_gguf, device)
    with tinyllm.load(smollm2_gguf, device) as model:
        assert model.memory().actual == planned.components


def test_the_report_shows_what_the_driver_took(device: str) -> None:
    with tinyllm.load(DATA / "smollm2", device) as model:
        report = model.memory()
    text = str(report)
    assert f"of {format_bytes(report.total)}" in text
    if device == "cpu":
        assert (report.driver, report.lost) == ({}, 0)
        return
    assert list(report.driver) == [
        "context",
        "modules",
        "code reserve",
        "graphs",
        "pool",
        "other models",
        "unexplained",
    ]
    assert report.lost == report.actual_total + sum(report.driver.values())
    for name in (*report.driver, "driver lost"):
        assert f"\n{name} " in text


def test_live_allocations_are_those_of_the_plan(device: str) -> None:
    tracking = b"memory tracking" in native.library().tl_build_info()
    with tinyllm.load(DATA / "smollm2", device) as model:
        report = model.memory()
    if not tracking:
        assert report.allocations == ()
        return
    assert {(a.component, a.name, a.bytes) for a in report.allocations} == {
        (entry.component, entry.name, entry.bytes) for entry in report.entries
    }
    assert all(a.file.endswith(".cpp") and a.line > 0 for a in report.allocations)


def test_devices_are_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("tinyllm._native.devices")
    found = module.devices()
    calls = []
    monkeypatch.setattr(module, "devices", lambda: calls.append(None) or found)
    assert module.resolve_device("auto").usable
    assert module.resolve_device("cpu").device == "cpu"
    assert len(calls) == 2
    assert module.kind_of_device("cuda:3") == "cuda"
    assert len(calls) == 2  # a name says its kind


def test_fits_and_its_inverses_agree() -> None:
    planned = plan_7b()
    memory = planned.needed
    assert memory == planned.host_peak > planned.total  # the scales of a tensor while it loads
    assert planned.fits(memory)
    assert not planned.fits(memory - 1)
    assert planned.max_seq_len(memory) >= 2048
    context = planned.max_seq_len(12 * GB, batch=4)
    assert context % 64 == 0
    assert plan_7b(4, context).fits(12 * GB)
    assert not plan_7b(4, context + 64).fits(12 * GB)
    batch = planned.max_batch(12 * GB, seq=512)
    assert plan_7b(batch, 512).fits(12 * GB)
    assert not plan_7b(batch + 1, 512).fits(12 * GB)
    assert planned.max_seq_len(GB) == planned.max_batch(GB) == 0


def test_an_automatic_cache_fills_the_fraction(device: str) -> None:
    with tinyllm.load(DATA / "smollm2", device, kv_cache="auto", memory_fraction=0.05) as model:
        trained = model.config.max_seq_len
        assert (model.kv_cache.max_seq_len, model.kv_cache.max_batch_size) == (trained, 64)
    planned = plan_7b()
    config = auto_kv_cache(LLAMA2_7B, "cpu", 8 * GB)
    assert config.max_batch_size == 1
    assert plan_7b(1, config.max_seq_len).total <= 8 * GB < plan_7b(1, config.max_seq_len + 64).total
    config = auto_kv_cache(LLAMA2_7B, "cpu", 20 * GB)
    assert config.max_seq_len == LLAMA2_7B.max_seq_len
    assert plan_7b(config.max_batch_size, 4096).total <= 20 * GB < plan_7b(config.max_batch_size + 1, 4096).total
    with pytest.raises(tinyllm.OutOfMemoryError, match="weights"):
        auto_kv_cache(LLAMA2_7B, "cpu", planned.components["weights"])
    with pytest.raises(ValueError, match="memory_fraction"):
        tinyllm.load(DATA / "smollm2", device, kv_cache="auto", memory_fraction=1.5)
    with pytest.raises(ValueError, match="'auto' only"):
        tinyllm.load(DATA / "smollm2", device, memory_fraction=0.5)
    with pytest.raises(ValueError, match="KVCacheConfig"):
        tinyllm.load(DATA / "smollm2", device, kv_cache=0.5)


def test_a_cuda_plan_needs_neither_gpu_nor_cuda() -> None:
    planned = tinyllm.plan(LLAMA2_7B, "cuda")
    assert planned.components["weights"] == plan_7b().components["weights"]
    names = {entry.name for entry in planned.entries}
    assert names == {entry.name for entry in plan_7b().entries}
    assert not planned.fits(planned.total)
    needed = planned.total + sum(planned.estimates.values())
    assert planned.fits(needed)
    assert not planned.fits(needed - 1)
    # What a pool takes is a multiple of 32 MB.
    pool = planned.total + planned.estimates["loading and pool"]
    assert pool % (32 * MB) == 0
    assert {entry.name for entry in planned.overhead if entry.on_device and entry.only_loading} == {
        "load blocks of weights",
        "scales and moments",
    }
    assert planned.host_peak == 29 * MB  # pinned: three load blocks of 8 MB, 1 MB up and 4 MB down
    context = planned.max_seq_len(24 * GB)
    assert tinyllm.plan(LLAMA2_7B, "cuda", kv_cache=KVCacheConfig(1, context)).fits(24 * GB)
    assert not tinyllm.plan(LLAMA2_7B, "cuda", kv_cache=KVCacheConfig(1, context + 64)).fits(24 * GB)
    batch = planned.max_batch(24 * GB, seq=512)
    assert tinyllm.plan(LLAMA2_7B, "cuda", kv_cache=KVCacheConfig(batch, 512)).fits(24 * GB)
    assert not tinyllm.plan(LLAMA2_7B, "cuda", kv_cache=KVCacheConfig(batch + 1, 512)).fits(24 * GB)


def test_any_number_is_an_amount_of_memory() -> None:
    planned = tinyllm.plan(DATA / "smollm2", "cuda", kv_cache=KVCacheConfig(1, 512))
    for inverse in (planned.max_seq_len, planned.max_batch):
        assert inverse(24e9) == inverse(24 * 10**9) > 0
        # More than 64 bits are as much as 64 bits: no upper bits are cut off.
        assert inverse(2**64 + 10) == inverse(1e300) == inverse(math.inf) == inverse(2**64 - 1) > 0
        assert inverse(-5) == inverse(0) == inverse(-math.inf) == inverse(math.nan) == 0
    assert planned.fits(math.inf)
    assert not planned.fits(math.nan)


def test_scratch_of_the_cuda_kernels_is_planned() -> None:
    """By hand: 16384 counters, and behind them what the most demanding kernel needs, in steps of 256 bytes."""

    def scratch(model: ModelConfig, batch: int, context: int) -> int:
        planned = tinyllm.plan(model, "cuda", kv_cache=KVCacheConfig(batch, context))
        return next(entry.bytes for entry in planned.entries if entry.name == "scratch") - 4 * 16384

    # Decode attention: a part of a head for every 8 pages of 64 tokens, at most 32; 128 values and two sums for each.
    rows, heads, parts = 4, 32, 32
    assert scratch(LLAMA2_7B, rows, 32768) == rows * heads * parts * (128 + 2) * 4
    assert scratch(LLAMA2_7B, rows, 65536) == scratch(LLAMA2_7B, rows, 32768)
    assert scratch(LLAMA2_7B, rows, 15000) == rows * heads * 30 * (128 + 2) * 4  # 235 pages

    # Decode linears: the largest are the sums of q, k and v, in 8 parts (48 row blocks fill 132 multiprocessors best
    # so); of 64 rows at most at a time.
    assert scratch(LLAMA2_7B, 1, 512) == 8 * 1 * 3 * 4096 * 4
    assert scratch(LLAMA2_7B, 64, 512) == 8 * 64 * 3 * 4096 * 4
    assert scratch(LLAMA2_7B, 65, 512) == scratch(LLAMA2_7B, 64, 512)

    # Sampling: for each row 4096 candidates, 2048 bins, four fields, and of each of 32 blocks a rank and five floats.
    sampling = 4096 * 8 + 2048 * 4 + (8 + 3 * 4 + 4) + 32 * (8 + 5 * 4)
    small = ModelConfig(vocab_size=256, hidden_dim=64, intermediate_dim=64, num_layers=1, num_heads=1)
    for rows in (1, 3):
        assert scratch(small, rows, 512) == -(-rows * sampling // 256) * 256


def test_the_page_of_tables_is_up_to_date() -> None:
    assert memory_tables.page_tables(memory_tables.PAGE.read_text()) == memory_tables.tables()


def test_text_and_json_say_the_same() -> None:
    planned = plan_7b()
    report = json.loads(planned.to_json())
    assert report["components"] == planned.components
    assert report["total"] == sum(entry["bytes"] for entry in report["entries"]) == planned.total
    assert str(planned.total) in str(planned)
    assert "layers.31.down_proj.weight" in planned.table(entries=True)


def test_wrong_values_are_named() -> None:
    for options, words in (
        ({"group_size": 100}, "group_size"),
        ({"device": "tpu"}, "device"),
        ({"kv_cache": 5}, "KVCacheConfig"),
    ):
        with pytest.raises(ValueError, match=words):
            tinyllm.plan(LLAMA2_7B, **options)
    with pytest.raises(ValueError, match="bfloat32"):
        replace(LLAMA2_7B, dtype="bfloat32")


@pytest.mark.parametrize("value", [0, -1, 65537, 2**32 + 64, 1.5, True, "64"])
def test_step_tokens_are_checked_where_a_model_is_planned_and_loaded(value: object) -> None:
    words = re.escape(f"max_step_tokens must be an integer from 1 to 65536 or None; got {value!r}")
    model = DATA / "smollm2"
    for use in (tinyllm.plan, tinyllm.load):
        with pytest.raises(tinyllm.ConfigError, match=words):
            use(model, "cpu", max_step_tokens=value)
    with pytest.raises(tinyllm.ConfigError, match=words):
        tinyllm.load(model, "cpu", kv_cache="auto", max_step_tokens=value)


def test_step_tokens_may_be_anything_up_to_the_limit() -> None:
    rows = {
        count: tinyllm.plan(LLAMA2_7B, "cpu", max_step_tokens=count).components["activations"]
        for count in (1, np.int64(64), None, 65536)
    }
    assert rows[1] < rows[64] < rows[None] < rows[65536]


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * GB), ("80 GiB", 80 * GB), ("512m", 512 * MB), ("1.5G", 3 * GB // 2), ("77", 77)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    return run_cli("plan", *arguments, code=code)


@pytest.mark.parametrize("text", ["9" * 400, "9" * 400 + "GB", "8388609 TB"])
def test_absurd_sizes_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="more than any memory"):
        parse_size(text)
    assert "more than any memory" in run(str(DATA / "smollm2"), "--gpu-memory", text, code=2).stderr


@pytest.mark.slow
def test_the_command_prints_table_grid_and_comparison() -> None:
    model = str(DATA / "smollm2")
    result = run(model, "--device", "cpu", "--gpu-memory", "16MB", "--compare", "--entries")
    assert "fits into 16.00 MB" in result.stdout
    assert "16-bit" in result.stdout
    grid = result.stdout[result.stdout.index("context \\ batch") :].splitlines()
    columns = [re.split(" {2,}", line.strip()) for line in grid]
    assert columns[0][1:] == ["1", "2", "4", "8", "16", "32", "64"]
    assert [row[0] for row in columns[1:]] == [str(512 << i) for i in range(9)]
    for context, *cells in columns[1:]:
        for batch, cell in zip(columns[0][1:], cells, strict=True):
            size = tinyllm.plan(model, "cpu", kv_cache=KVCacheConfig(int(batch), int(context))).needed
            assert cell == (format_bytes(size) if size <= 16 * MB else "-")
    assert grid[-1].split()[1:] == ["-"] * 7  # 131072 tokens do not fit into 16 MB
    report = json.loads(run(model, "--device", "cpu", "--gpu-memory", "16MB", "--compare", "--json").stdout)
    assert report["fits"] is True
    assert [cell["fits"] for cell in report["grid"]] == ["-" not in cell for row in columns[1:] for cell in row[1:]]
    assert report["compare"]["w8a16"]["total"] == report["total"] < report["compare"]["none"]["total"]
    assert report["max_seq_len"] > 2048
    assert "fits into 2.00 GB" in run(model, "--gpu-memory", "2GB").stdout  # the default device is one of this build
    assert "24 parsecs" in run(model, "--gpu-memory", "24 parsecs", code=2).stderr


@pytest.mark.slow
def test_the_grid_is_of_the_counts_asked_for() -> None:
    model = str(DATA / "smollm2")
    text = run(model, "--device", "cpu", "--gpu-memory", "16MB", "--context", "100,700", "--batch", "3,1").stdout
    assert f"{model}: 3 x 100 tokens" in text
    grid = [line.split() for line in text[text.index("context \\ batch") :].splitlines()]
    assert grid[0][3:] == ["3", "1"]
    assert [row[0] for row in grid[1:]] == ["100", "700"]
    assert "(the model is made for 256)" in text
    assert "not given" in run(model, "--context", "100,700", code=1).stderr
    assert "'0MB' is no memory" in run(model, "--gpu-memory", "0MB", code=2).stderr
    assert "float32 activations run on the CPU only" in run(model, "--dtype", "float32", code=1).stderr
    assert f"{model}: 1 x 256 tokens" in run(model).stdout  # the model's, which is shorter than 2048
    assert "'2k' is neither a whole number" in run(model, "--context", "2k", code=2).stderr
    assert "--context must be an integer from 1" in run(model, "--context", "0", code=1).stderr


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    model = str(DATA / "smollm2")
    target = tmp_path / "plan.png"
    if importlib.util.find_spec("matplotlib") is None:
        assert "pip install matplotlib" in run(model, "--device", "cpu", "--plot", str(target), code=1).stderr
        return
    run(model, "--device", "cpu", "--gpu-memory", "16MB", "--plot", str(target))
    assert target.read_bytes().startswith(b"\x89PNG")


def test_the_plot_has_the_contexts_asked_for_and_a_unit_to_read() -> None:
    pytest.importorskip("matplotlib", reason="draws")
    from tinyllm.memory.plotting import plan_figure

    def texts(memory: int | None, contexts: list[int], name: str = "") -> tuple[str, str, list[str]]:
        (axes,) = plan_figure(planned, memory, contexts, name).axes
        return axes.get_title(), axes.get_ylabel(), [label.get_text() for label in axes.get_xticklabels()]

    planned = tinyllm.plan(DATA / "smollm2", "cpu")
    assert texts(16 * MB, [900, 100], "smollm2") == ("smollm2: w8a16, batch 1, on cpu", "MB", ["100", "900"])
    title, unit, bars = texts(None, [])
    assert (title, unit) == ("w8a16, batch 1, on cpu", "MB")
    assert bars == ["256", *(str(512 << doubled) for doubled in range(7))]
    assert texts(24 * GB, [])[1] == "GB"


def test_a_model_that_does_not_fit_is_exit_code_1() -> None:
    model = str(DATA / "smollm2")
    assert "does NOT fit into" in run(model, "--device", "cpu", "--gpu-memory", "100KB", code=1).stdout
    assert json.loads(run(model, "--gpu-memory", "100KB", "--json", code=1).stdout)["fits"] is False
