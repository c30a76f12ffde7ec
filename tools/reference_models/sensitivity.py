"""What the logits would be with one feature ignored or misread.

A reference that does not move when a feature is dropped proves nothing about that feature. Each variant changes the
configuration or the weights so that transformers computes what a faulty engine would.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .cases import Case

Config = dict[str, Any]
State = dict[str, torch.Tensor]
Variant = tuple[str, Config, State]

_BIAS_GROUPS = {
    "q, k, v bias": ("q_proj.bias", "k_proj.bias", "v_proj.bias"),
    "o bias": ("o_proj.bias",),
    "mlp bias": ("gate_proj.bias", "up_proj.bias", "down_proj.bias"),
}
_NORMS = ("input_layernorm", "post_attention_layernorm", "model.norm", "q_norm", "k_norm")
# A value that differs from the one the reference uses, for each scaling parameter an engine could ignore.
_ROPE_REPLACEMENTS = {
    "factor": 1.5,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "attention_factor": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": True,
}


def _mapped(state: State, change: Callable[[torch.Tensor], torch.Tensor], *endings: str) -> State:
    """`state` with `change` applied to the tensors whose names end in one of `endings`."""
    return {key: change(value) if key.endswith(endings) else value for key, value in state.items()}


def _with_rope(config: Config, **changes: Any) -> Config:
    changed = copy.deepcopy(config)
    changed["rope_parameters"].update(changes)
    return changed


def _rope_variants(config: Config, state: State) -> Iterator[Variant]:
    rope = config["rope_parameters"]
    theta = 500000.0 if rope["rope_theta"] == 10000.0 else 10000.0
    yield "rope_theta", _with_rope(config, rope_theta=theta), state
    if rope["rope_type"] != "default":
        plain = {**config, "rope_parameters": {"rope_type": "default", "rope_theta": rope["rope_theta"]}}
        yield "rope scaling", plain, state
    for key, value in _ROPE_REPLACEMENTS.items():
        if key in rope:
            yield f"rope {key}", _with_rope(config, **{key: value}), state
    if rope["rope_type"] == "yarn" and "attention_factor" not in rope:
        yield "rope default attention_factor", _with_rope(config, attention_factor=1.0), state


def _interleaved_rope(config: Config, state: State) -> Variant:
    """Pairs (2i, 2i + 1) instead of (i, i + head_dim / 2): the same as permuting the rows of Q and K."""

    def permute(rows: torch.Tensor, heads: int) -> torch.Tensor:
        return rows.reshape(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)

    changed = _mapped(state, lambda t: permute(t, config["num_attention_heads"]), "q_proj.weight", "q_proj.bias")
    return (
        "rope pairs",
        config,
        _mapped(changed, lambda t: permute(t, config["num_key_value_heads"]), "k_proj.weight", "k_proj.bias"),
    )


def _attention_variants(config: Config, state: State) -> Iterator[Variant]:
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    if 1 < kv_heads < heads:
        # Head h wrongly reads KV head h % kv_heads: move each head to a slot that belongs to that KV head.
        order = [h for kv in range(kv_heads) for h in range(heads) if h % kv_heads == kv]

        def rows(t: torch.Tensor) -> torch.Tensor:
            return t.reshape(heads, -1, *t.shape[1:])[order].reshape(t.shape)

        changed = _mapped(state, rows, "q_proj.weight", "q_proj.bias")
        yield "KV head of a head", config, _mapped(changed, lambda t: rows(t.T.contiguous()).T, "o_proj.weight")
    default_head_dim = config["hidden_size"] // heads
    head_dim = config.get("head_dim", default_head_dim)
    if head_dim != default_head_dim and config["model_type"] != "qwen3":
        ratio = (head_dim / default_head_dim) ** 0.5
        yield "softmax scale of head_dim", config, _mapped(state, lambda t: t * ratio, "q_proj.weight")
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        window, wide = config["sliding_window"], config["max_position_embeddings"]
        yield "sliding window", {**config, "sliding_window": wide}, state
        yield "sliding window + 1", {**config, "sliding_window": window + 1}, state
        yield "sliding window - 1", {**config, "sliding_window": window - 1}, state
        if "max_window_layers" in config:
            yield "window on every layer", {**config, "max_window_layers": 0}, state
    elif config.get("sliding_window"):
        yield "window though unused", {**config, "use_sliding_window": True}, state


def variants(case: Case, state: State) -> Iterator[Variant]:
    """Yield (what is ignored, configuration, weights) for every feature that `case` has."""
    config = case.config
    yield _interleaved_rope(config, state)
    yield from _rope_variants(config, state)
    yield from _attention_variants(config, state)
    if config["rms_norm_eps"] > 1e-3:
        yield "rms_norm_eps", {**config, "rms_norm_eps": 1e-5}, state
    for norm in _NORMS:
        if any(key.endswith(f"{norm}.weight") for key in state):
            yield f"{norm} weight", config, _mapped(state, torch.ones_like, f"{norm}.weight")
    for name, endings in _BIAS_GROUPS.items():
        if any(key.endswith(endings) for key in state):
            yield name, config, _mapped(state, torch.zeros_like, *endings)
    if not config["tie_word_embeddings"]:
        yield "untied lm_head", config, {**state, "lm_head.weight": state["model.embed_tokens.weight"]}
