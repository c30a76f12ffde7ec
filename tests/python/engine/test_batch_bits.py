"""A request gives the same bits alone and in any batch: every architecture, while others join and leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import tinyllm
from model_files import write_model
from reference import CASES, ReferenceCase
from tinyllm import KVCacheConfig, ModelConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Log-probabilities are asked for because they show a single changed bit that tokens would hide.
GREEDY: dict[str, Any] = {"temperature": 0.0}
SAMPLED: dict[str, Any] = {"temperature": 1.0, "top_k": 30, "top_p": 0.95, "repetition_penalty": 1.2, "seed": 11}
PROMPT_LENGTHS = [1, 5, 17, 40, 63, 64, 65, 90]  # about the 64 tokens of a page
MAX_BATCH = 64  # up to which the GPU's decode kernels switch
REQUESTS = 90  # so that some join when others leave
LONGEST = 24  # tokens of a continuation
ROOM = 70  # tokens of context behind the longest prompt: more than a continuation takes

Bits = list[tuple[int, bytes]]  # token id and log-probability of each token


def bits(pieces: Iterator[tinyllm.StreamPiece]) -> Bits:
    return [(piece.token_id, np.float32(piece.logprob).tobytes()) for piece in pieces]


def check_bits(path: Path, device: str, dtype: str, lengths: list[int], requests: int) -> None:
    """`requests` requests with prompts of the given lengths, together and each of a kind alone."""
    cache = KVCacheConfig(max_batch_size=MAX_BATCH, max_seq_len=max(lengths) + ROOM)
    with tinyllm.load(path, device=device, dtype=dtype, kv_cache=cache) as model:
        rng = np.random.default_rng(1)
        prompts = [rng.integers(0, model.config.vocab_size, length).tolist() for length in lengths]

        def start(index: int, tokens: int) -> Iterator[tinyllm.StreamPiece]:
            settings = SAMPLED if index // len(prompts) % 2 else GREEDY
            return model.stream(
                prompts[index % len(prompts)], max_new_tokens=tokens, logprobs=True, ignore_eos=True, **settings
            )

        # A shorter continuation is the beginning of a longer one, so one of each prompt and setting will do.
        alone = [bits(start(index, LONGEST)) for index in range(2 * len(prompts))]
        counts = rng.integers(1, LONGEST + 1, requests).tolist()
        together = [start(index, tokens) for index, tokens in enumerate(counts)]
        for index, tokens in enumerate(counts):
            assert bits(together[index]) == alone[index % len(alone)][:tokens], f"request {index}, {tokens} tokens"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_request_has_the_same_bits_alone_and_in_any_batch(case: ReferenceCase, device: str) -> None:
    # Both activation types, each on half of the models.
    check_bits(case.path, device, ["float16", "bfloat16"][CASES.index(case) % 2], PROMPT_LENGTHS, REQUESTS)


@pytest.mark.slow
def test_long_contexts_have_the_same_bits_in_any_batch(device: str, tmp_path: Path) -> None:
    """Contexts that decode attention on a GPU cuts into 1 to 4 parts: a part begins every 512 tokens."""
    config = ModelConfig(
        vocab_size=200, hidden_dim=256, intermediate_dim=320, num_layers=2, num_heads=4, tie_word_embeddings=True
    )
    write_model(tmp_path / "long", config, context=4096)
    check_bits(tmp_path / "long", device, "float16", [3, 500, 511, 513, 1030, 1600], requests=24)
