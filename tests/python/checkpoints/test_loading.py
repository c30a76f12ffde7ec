"""Loading: host memory stays near the quantised model plus one tensor, and bad weights are named."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tinyllm
from debug_hooks import live_bytes
from model_files import write_model
from python_process import run_program
from reference import CASES, DATA
from tinyllm import CheckpointError, ModelConfig
from tinyllm.checkpoints import expected_tensors

MB = 1 << 20
# 50 million parameters: 200 MB as float32, 50 MB as int8; the largest tensor has 8 MB.
BIG = ModelConfig(
    vocab_size=1024, hidden_dim=1024, intermediate_dim=2048, num_layers=5, num_heads=8, tie_word_embeddings=True
)
# Interpreter heap, NumPy and allocator slack that come and go while a model loads.
SLACK = 24 * MB

CHILD = """
import resource, sys
import numpy, ml_dtypes, safetensors.numpy, tqdm, tinyllm
from tinyllm import KVCacheConfig
tinyllm.load(sys.argv[2], device="cpu", kv_cache=KVCacheConfig(1, 64)).close()  # everything is imported and warm
planned = tinyllm.plan(sys.argv[1], "cpu", kv_cache=KVCacheConfig(1, 64))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = tinyllm.load(sys.argv[1], device="cpu", kv_cache=KVCacheConfig(1, 64))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = model.memory()
print((after - before) * 1024, report.actual_total, report.peak, planned.host_peak)
"""


@pytest.mark.slow
def test_host_memory_stays_near_the_quantised_model_and_one_tensor(tmp_path: Path) -> None:
    write_model(tmp_path / "big", BIG)
    stored = (tmp_path / "big" / "model.safetensors").stat().st_size
    assert stored > 180 * MB
    command = [sys.executable, "-c", CHILD, str(tmp_path / "big"), str(DATA / "llama2")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    grown, tracked, peak, planned = map(int, output.split())
    # The checkpoint is mapped: its pages are in what the process has resident, though not in the plan.
    largest = 4 * max(int(np.prod(shape)) for shape in expected_tensors(BIG).values())
    assert tracked < 70 * MB
    assert peak == planned
    assert grown <= planned + largest + SLACK


def test_staging_is_what_is_planned(device: str) -> None:
    for case in {case.path: case for case in CASES}.values():
        for quantization in ("w8a16", "none"):
            planned = tinyllm.plan(case.path, device, quantization)
            with tinyllm.load(case.path, device, quantization) as model:
                staging = model.memory().tracked["staging"].peak
                assert staging == sum(entry.bytes for entry in planned.overhead if entry.only_loading)


@pytest.mark.slow
def test_the_heap_of_a_dequantised_tensor_is_planned(smollm2_gguf: Path) -> None:
    with tinyllm.checkpoints.open_checkpoint(smollm2_gguf) as checkpoint:
        tensor = max(checkpoint.tensors(), key=lambda tensor: tensor.heap_bytes)
        tracemalloc.start()
        try:
            values = tensor.load()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert values.nbytes < peak <= tensor.heap_bytes + MB
    assert tinyllm.plan(smollm2_gguf, "cpu").reader_bytes == checkpoint.heap_bytes + tensor.heap_bytes
    assert tinyllm.plan(DATA / "llama2", "cpu").reader_bytes == 0  # mapped


def test_a_host_without_room_for_a_tensor_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("tinyllm.checkpoints.files.StoredFile.map_array", no_room)
    live = live_bytes()
    with pytest.raises(
        tinyllm.OutOfMemoryError, match=r"out of host memory.*'embed_tokens.weight' takes 0 bytes.*no room"
    ):
        tinyllm.load(DATA / "llama2", device="cpu")
    assert live_bytes() == live


def test_the_heap_of_a_gguf_header_is_planned(smollm2_gguf: Path) -> None:
    tracemalloc.start()
    try:
        with tinyllm.checkpoints.open_checkpoint(smollm2_gguf) as checkpoint:
            held, _ = tracemalloc.get_traced_memory()
            assert checkpoint.tokenizer.vocab_size > 49000
            left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert checkpoint.heap_bytes < held < checkpoint.heap_bytes + MB  # the list of tensors is not counted
    assert left < held - 0.8 * checkpoint.heap_bytes  # the tokenizer was all that needed it


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the resident size is read from /proc")
def test_loading_again_and_again_keeps_nothing(device: str) -> None:
    result = run_program("load_again.py", str(DATA / "smollm2"), device)
    assert result.returncode == 0, result.stderr
    early, late, live = map(int, result.stdout.split())
    assert late <= early + 2 * MB
    assert live == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("quantization", ["w8a16", "none"])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, device: str, value: float, quantization: str) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(DATA / "llama2", folder)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    changed = tensors[name].copy()
    changed[3, 5] = value
    tensors[name] = changed
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    words = r"model\.safetensors.*layers\.1\.mlp\.down_proj\.weight.*\[3, 5\]"
    with pytest.raises(CheckpointError, match=words):
        tinyllm.load(folder, device=device, quantization=quantization)
    # A norm, which is not quantised.
    tensors[name][3, 5] = 0
    tensors["model.norm.weight"] = np.full_like(tensors["model.norm.weight"], value)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"norm\.weight.*\[0\]"):
        tinyllm.load(folder, device=device, quantization=quantization)
