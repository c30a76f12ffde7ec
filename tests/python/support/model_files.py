"""Checkpoints of any shape with random weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from tinyllm.checkpoints import expected_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from tinyllm import ModelConfig


def write_model(folder: Path, config: ModelConfig, context: int = 64) -> None:
    """A Hugging Face directory of a llama model with tied embeddings and float32 weights."""
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
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(settings))
