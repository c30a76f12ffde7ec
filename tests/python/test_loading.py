"""Loading: host memory stays near the quantised model plus one tensor, and bad weights are named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tinyllm
from reference import DATA
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
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = tinyllm.load(sys.argv[1], device="cpu", kv_cache=KVCacheConfig(1, 64))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024, model.memory().actual_total)
"""


def write_model(folder: Path, config: ModelConfig) -> None:
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in expected_tensors(config).items():
        tensors[f"model.{name}"] = rng.standard_normal(shape, dtype=np.float32)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_dim,
        "intermediate_size": config.intermediate_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(settings))


def test_host_memory_stays_near_the_quantised_model_and_one_tensor(tmp_path: Path) -> None:
    write_model(tmp_path / "big", BIG)
    stored = (tmp_path / "big" / "model.safetensors").stat().st_size
    assert stored > 180 * MB
    command = [sys.executable, "-c", CHILD, str(tmp_path / "big"), str(DATA / "llama2")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    grown, tracked = map(int, output.split())
    largest = 4 * max(int(np.prod(shape)) for shape in expected_tensors(BIG).values())
    assert tracked < 70 * MB
    assert grown <= tracked + largest + SLACK


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
