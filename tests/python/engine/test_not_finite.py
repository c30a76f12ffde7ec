"""Models whose numbers overflow: an error that says so instead of wrong tokens, for the request that it is of alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tinyllm
from model_files import write_model
from tinyllm import KVCacheConfig, ModelConfig, NotFiniteError

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = ModelConfig(
    vocab_size=320, hidden_dim=64, intermediate_dim=96, num_layers=2, num_heads=4, tie_word_embeddings=True
)
HUGE_TOKEN = 9
LIMIT = {"max_new_tokens": 6, "ignore_eos": True}


@pytest.fixture
def overflowing(tmp_path: Path) -> Path:
    """A model that overflows float16 behind one token, whose embedding is as large as float16 holds."""
    folder = tmp_path / "model"
    write_model(folder, CONFIG)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][HUGE_TOKEN] = 65000
    tensors["lm_head.weight"] = np.random.default_rng(1).standard_normal((CONFIG.vocab_size, 64), np.float32)
    tensors["lm_head.weight"][HUGE_TOKEN] = tensors["lm_head.weight"][HUGE_TOKEN - 1]  # greedy takes the one before it
    save_file(tensors, file)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": False}))
    return folder


@pytest.mark.parametrize(
    "settings", [{"temperature": 0}, {"temperature": 1.0, "seed": 1, "top_p": 0.9, "logprobs": True}]
)
def test_only_the_request_that_overflows_ends(overflowing: Path, device: str, settings: dict[str, object]) -> None:
    with tinyllm.load(overflowing, device, dtype="float16", kv_cache=KVCacheConfig(3, 256)) as model:
        expected = model.generate([1, 2, 3], **LIMIT, **settings).token_ids
        with model.stream([1, 2, 3], **LIMIT, **settings) as stream:
            with pytest.raises(NotFiniteError, match=r"not finite.*float16 activations.*dtype=\"bfloat16\""):
                model.generate([5, HUGE_TOKEN], **LIMIT, **settings)
            assert [piece.token_id for piece in stream] == expected
        assert not np.isfinite(model.logits([5, HUGE_TOKEN])).all()
        assert model.generate([1, 2, 3], **LIMIT, **settings).token_ids == expected
        report = model.memory()
        assert report.kv_pages_free == report.kv_pages
    with tinyllm.load(overflowing, device, dtype="bfloat16") as model:
        assert model.generate([5, HUGE_TOKEN], **LIMIT).stats.generated_tokens == 6
