"""transformers in float32: the outside oracle for logits and for greedy generation."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

NUM_GREEDY_TOKENS = 8
# A greedy continuation is a fair test only where no other token comes near the best one.
MIN_GREEDY_MARGIN = 0.05


@dataclass(frozen=True)
class Reference:
    """What a reference file holds.

    token_ids: int32 [n]; positions: int32 [m], the rows of the logits that are kept; logits: float32 [m, vocab];
    greedy_ids: int32 [g], transformers' own greedy continuation with its cache; greedy_logprobs: float32 [g].
    """

    token_ids: np.ndarray
    positions: np.ndarray
    logits: np.ndarray
    greedy_ids: np.ndarray
    greedy_logprobs: np.ndarray


def build_model(config: dict[str, Any], state: dict[str, torch.Tensor] | None = None) -> PreTrainedModel:
    """A float32 model with eager attention; random as transformers makes it unless `state` is given."""
    arguments = dict(config)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(arguments.pop("model_type"), **arguments), attn_implementation="eager"
    ).eval()
    if state is not None:
        # A tied lm_head has no tensor of its own: it follows the embedding.
        result = model.load_state_dict(state, strict=False)
        expected_missing = ["lm_head.weight"] if config["tie_word_embeddings"] else []
        if result.missing_keys != expected_missing or result.unexpected_keys:
            raise ValueError(f"weights do not fit the configuration: {result}")
    return model


def _forget_earlier_sequences(model: PreTrainedModel) -> None:
    """Put dynamic RoPE back to its start.

    transformers keeps the frequencies of the longest sequence it has seen until one shorter than the original context
    comes along.
    """
    model(torch.zeros(1, 1, dtype=torch.long), use_cache=False)


@torch.no_grad()
def prefill_logits(model: PreTrainedModel, token_ids: np.ndarray) -> np.ndarray:
    """float32 logits [n, vocab] of one full prefill of token_ids [n]."""
    _forget_earlier_sequences(model)
    return model(torch.from_numpy(token_ids).long()[None], use_cache=False).logits[0].float().numpy()


@torch.no_grad()
def _greedy(model: PreTrainedModel, token_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Greedy ids and log-probabilities after token_ids, step by step with a cache, and the smallest logit margin."""
    _forget_earlier_sequences(model)
    ids, logprobs, margin = [], [], float("inf")
    inputs, cache = torch.from_numpy(token_ids).long()[None], None
    for _ in range(NUM_GREEDY_TOKENS):
        output = model(inputs, past_key_values=cache, use_cache=True)
        cache, last = output.past_key_values, output.logits[0, -1].float()
        best, second = last.topk(2).values.tolist()
        margin = min(margin, best - second)
        token = int(last.argmax())
        ids.append(token)
        logprobs.append(float(last.log_softmax(-1)[token]))
        inputs = torch.tensor([[token]])
    return np.array(ids, np.int32), np.array(logprobs, np.float32), margin


def _kept_positions(length: int) -> np.ndarray:
    """A dozen or so positions: the first two, every fifth, and the last four, where scaled RoPE differs most."""
    return np.array(sorted({0, 1, *range(4, length, 5), *range(length - 4, length)}), np.int32)


def make_reference(model: PreTrainedModel, name: str, length: int) -> Reference:
    """Random token ids seeded by `name`, redrawn until the greedy continuation is clear, and their logits."""
    generator = np.random.default_rng(zlib.crc32(f"{name} token ids".encode()))
    for _ in range(100):
        token_ids = generator.integers(0, model.config.vocab_size, length).astype(np.int32)
        greedy_ids, greedy_logprobs, margin = _greedy(model, token_ids)
        if margin >= MIN_GREEDY_MARGIN:
            positions = _kept_positions(length)
            logits = prefill_logits(model, token_ids)[positions]
            return Reference(token_ids, positions, logits, greedy_ids, greedy_logprobs)
    raise RuntimeError(f"{name}: no prompt with a greedy margin of {MIN_GREEDY_MARGIN} in 100 draws")
