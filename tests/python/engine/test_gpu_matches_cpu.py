"""Whole models on the GPU against the CPU backend, which the other tests hold to transformers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

import ops_api
import tinyllm
from needs import require_gpu
from ops_types import Target
from oracle_sampling import log_softmax
from reference import CASES, ReferenceCase
from tinyllm import KVCacheConfig
from tinyllm.checkpoints import open_checkpoint
from tinyllm.config import QuantizationType
from tolerances import GPU_MEAN_KL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXT = (
    "The lighthouse keeper wrote down the weather every morning: wind from the west, 12 knots, visibility good. "
    "def area(r):\n    return 3.14159 * r ** 2\n\nOn 17 March 1923 she stopped, and nobody ever learned why. "
    "In cooking, as in chemistry, the order of steps matters more than most people think; salt added late does not "
    "do what salt added early does. Q: What is the boiling point of water at sea level? A: 100 degrees Celsius. "
)


@pytest.fixture(autouse=True)
def gpu(request: pytest.FixtureRequest) -> None:
    require_gpu(request.config)


def mean_kl(path: Path, token_ids: list[int], **options: object) -> float:
    """Mean KL divergence of the GPU's next-token distributions from the CPU's."""
    cache = KVCacheConfig(max_batch_size=1, max_seq_len=max(64, len(token_ids)))
    logits = []
    for device in ("cpu", "cuda"):
        with tinyllm.load(path, device=device, kv_cache=cache, **options) as model:
            logits.append(model.logits(token_ids))
    cpu, cuda = (np.apply_along_axis(log_softmax, 1, rows) for rows in logits)
    return float((np.exp(cpu) * (cpu - cuda)).sum(axis=-1).mean())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cuda_logits_of_small_models(
    case: ReferenceCase, dtype: str, record_property: Callable[[str, object], None]
) -> None:
    divergence = mean_kl(case.path, case.load().token_ids.tolist(), dtype=dtype)
    record_property(f"mean_kl {dtype}", divergence)  # for the GPU record
    assert divergence <= GPU_MEAN_KL[dtype]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("quantization", ["w8a16", "none"])
def test_cuda_logits_of_the_real_model(
    smollm2_gguf: Path, quantization: str, dtype: str, record_property: Callable[[str, object], None]
) -> None:
    with tinyllm.load(smollm2_gguf, device="cpu") as model:
        token_ids = model.tokenizer.encode(TEXT * 2)
    assert len(token_ids) > 200
    divergence = mean_kl(smollm2_gguf, token_ids, quantization=quantization, dtype=dtype)
    record_property(f"mean_kl SmolLM2 {dtype}", divergence)
    assert divergence <= GPU_MEAN_KL[dtype]


@pytest.mark.parametrize("group_size", [0, 32, 128])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cuda_finds_the_scales_of_the_cpu(case: ReferenceCase, group_size: int) -> None:
    with open_checkpoint(case.path) as checkpoint:
        config = replace(checkpoint.config, quantization=QuantizationType.W8A16, group_size=group_size, dtype="float16")
        tensors = [(tensor.name, tensor.load()) for tensor in checkpoint.tensors()]
        if config.tie_word_embeddings:
            tensors += [tensor for tensor in tensors if tensor[0] == "embed_tokens.weight"]
        cpu, cuda = (ops_api.model_scales(config, device, tensors) for device in ("cpu", "cuda"))
    assert len(cpu) > 0
    np.testing.assert_array_equal(cuda, cpu)


def test_cuda_loads_a_matrix_of_several_load_blocks_alike() -> None:
    # 20 MB; load blocks have 8.
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5001, 1030)).astype(np.float32)
    counts = np.exp2(rng.uniform(-6, 6, 1030)).astype(np.float32)
    loaded = [
        (
            *ops_api.load_linear(target, weight, search_scales=True, importance=counts),
            *ops_api.second_moments(target, weight, counts),
        )
        for target in (Target(device="cpu"), Target(device="cuda"))
    ]
    for cpu, cuda in zip(*loaded, strict=True):
        np.testing.assert_array_equal(cuda, cpu)
