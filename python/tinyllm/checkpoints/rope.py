"""RoPE settings of a checkpoint, as fields of `ModelConfig`.

`huggingface_rope` reads `config.json`, `gguf_rope` GGUF metadata. The meaning of the Hugging Face keys and their
defaults are those of transformers 5.24, `modeling_rope_utils.py`; the GGUF keys are listed in the gguf package's
`constants.py` and mean what llama.cpp does with them (`llama-model.cpp`, `llama-context.cpp`).
"""

from __future__ import annotations

import math
import warnings
from typing import Any

from ..config import ROPE_TYPES, ModelConfig
from ..errors import CheckpointError
from .settings import Settings

_DEFAULT_THETA = 10000.0
_LAYER_TYPES = ("full_attention", "sliding_attention")

# Read by nobody in transformers: "finetuned" is a note of the YaRN authors.
_HARMLESS_ROPE_KEYS = frozenset({"finetuned"})


def yarn_attention_factor(factor: float, mscale: float | None = None, mscale_all_dim: float | None = None) -> float:
    """What YaRN multiplies cos and sin with for a context stretched by `factor`: 0.1 ln(factor) + 1.

    With both `mscale` and `mscale_all_dim` (DeepSeek's variant), the ratio of the two formulas in which they scale the
    logarithm. Same as `get_mscale` in transformers' `_compute_yarn_parameters`.
    """
    if mscale and mscale_all_dim:
        divisor = _mscale(factor, mscale_all_dim)
        return _mscale(factor, mscale) / divisor if divisor else math.inf
    return _mscale(factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0


def huggingface_rope(settings: Settings, max_seq_len: int) -> dict[str, Any]:
    """RoPE fields of `ModelConfig` from a `config.json`.

    Reads the newer `rope_parameters` or the older `rope_theta` with `rope_scaling`, and `type` for `rope_type`.
    `max_seq_len` is the model's `max_position_embeddings`.
    """
    outer_theta = settings.number("rope_theta", None, positive=True)
    outer_original = settings.integer("original_max_position_embeddings", None, low=1)
    outer_partial = settings.number("partial_rotary_factor", None)
    rope = _rope_section(settings)
    rope_type = _rope_type(rope)
    theta = rope.number("rope_theta", outer_theta, positive=True)
    partial = rope.number("partial_rotary_factor", outer_partial)
    if partial not in (None, 1.0):
        raise CheckpointError(
            f"{settings.source}: 'partial_rotary_factor' = {partial:g}: tinyllm runs models whose RoPE turns the "
            "whole head (1.0) only"
        )

    theta = _DEFAULT_THETA if theta is None else theta
    fields: dict[str, Any] = {"rope_type": rope_type, "rope_theta": theta}
    harmless = _HARMLESS_ROPE_KEYS
    if rope_type == "linear":
        fields["rope_factor"] = rope.number("factor", positive=True)
        harmless = harmless | {"original_max_position_embeddings"}  # linear scaling does not depend on it
    elif rope_type == "dynamic":
        fields |= _dynamic(rope, max_seq_len)
    elif rope_type in ("llama3", "yarn"):
        inner_original = rope.integer("original_max_position_embeddings", max_seq_len, low=1)
        original = outer_original or inner_original
        fields["rope_original_max_seq_len"] = original
        _check_yarn_theta(rope, "rope_theta", rope_type, theta)
        fields |= _llama3(rope) if rope_type == "llama3" else _yarn(rope, implied_factor=max_seq_len / original)
    rope.refuse_unread(harmless, {})
    return fields


def _rope_section(settings: Settings) -> Settings:
    """The RoPE parameters, under whichever of the two keys they are."""
    newer = settings.get("rope_parameters")
    older = settings.get("rope_scaling")
    if newer and older and newer != older:
        raise settings.wrong("rope_scaling", "equal to 'rope_parameters' where both are given")
    key = "rope_parameters" if newer else "rope_scaling"
    values = newer or older or {}
    if not isinstance(values, dict):
        raise settings.wrong(key, "an object")
    by_layer_type = [layer_type for layer_type in _LAYER_TYPES if layer_type in values]
    if by_layer_type:
        # transformers reads such a form for other models; for these it fails or falls back to the defaults.
        raise settings.wrong(key, f"one set of parameters for all layers, without {' and '.join(by_layer_type)}")
    return Settings(values, f"{settings.source}: {key}")


def _rope_type(rope: Settings) -> str:
    legacy = rope.text("type", "default")
    rope_type: str = rope.text("rope_type", legacy)
    if rope_type not in ROPE_TYPES:
        raise CheckpointError(
            f"{rope.source}: RoPE type {rope_type!r} is not supported; supported: {', '.join(ROPE_TYPES)}"
        )
    return rope_type


def _dynamic(rope: Settings, max_seq_len: int) -> dict[str, Any]:
    # transformers stretches relative to max_position_embeddings and ignores the key below, so that only equal
    # values are beyond doubt.
    original = rope.integer("original_max_position_embeddings", max_seq_len, low=1)
    if original != max_seq_len:
        raise rope.wrong(
            "original_max_position_embeddings", f"max_position_embeddings ({max_seq_len}) for dynamic RoPE"
        )
    return {"rope_factor": rope.number("factor", positive=True), "rope_original_max_seq_len": max_seq_len}


def _llama3(rope: Settings) -> dict[str, Any]:
    return {
        "rope_factor": rope.number("factor", positive=True),
        "rope_low_freq_factor": rope.number("low_freq_factor", positive=True),
        "rope_high_freq_factor": rope.number("high_freq_factor", positive=True),
    }


def _check_yarn_theta(settings: Settings, key: str, rope_type: str, theta: float) -> None:
    """YaRN divides by the logarithm of the base."""
    if rope_type == "yarn" and theta <= 1:
        raise settings.wrong(key, "a number above 1 for YaRN")


def _yarn(rope: Settings, implied_factor: float) -> dict[str, Any]:
    """`implied_factor`: trained context / original context, which stands in for a factor of null."""
    factor = rope.number("factor", implied_factor, positive=True)
    attention_factor = rope.number("attention_factor", None, positive=True)
    mscale = rope.number("mscale", None)
    mscale_all_dim = rope.number("mscale_all_dim", None)
    if attention_factor is None:
        attention_factor = yarn_attention_factor(factor, mscale, mscale_all_dim)
        if not (math.isfinite(attention_factor) and attention_factor > 0):
            raise rope.wrong(
                "mscale_all_dim",
                f"such that the attention factor of factor = {factor:g} and mscale = {mscale!r} is a number above 0, "
                f"which is {attention_factor:g}",
            )
    return {
        "rope_factor": factor,
        "rope_attention_factor": attention_factor,
        "rope_beta_fast": rope.number("beta_fast", None) or 32.0,
        "rope_beta_slow": rope.number("beta_slow", None) or 1.0,
        # transformers reads null, unlike an absent key, as false.
        "rope_truncate": rope.boolean("truncate", "truncate" not in rope),
    }


def gguf_rope(settings: Settings, max_seq_len: int, has_frequency_divisors: bool) -> dict[str, Any]:
    """RoPE fields of `ModelConfig` from GGUF metadata. `settings` holds the keys without their architecture prefix.

    llama.cpp takes scaling as linear where no type is given and a factor of 0 as 1. Llama 3's scaling is not in the
    metadata: the file holds its divisors as the tensor `rope_freqs.weight` (`has_frequency_divisors`).
    """
    theta = settings.number("rope.freq_base", _DEFAULT_THETA, positive=True)
    older_factor = settings.number("rope.scale_linear", 0.0)
    factor = settings.number("rope.scaling.factor", older_factor) or 1.0
    original = settings.integer("rope.scaling.original_context_length", max_seq_len) or max_seq_len
    scaling = settings.text("rope.scaling.type", "linear")
    amplitude = settings.number("rope.scaling.attn_factor", 1.0, positive=True)
    yarn_amplitude = settings.number("rope.scaling.yarn_attn_factor", None, positive=True)
    extrapolation = settings.number("rope.scaling.yarn_ext_factor", 1.0)
    beta_fast = settings.number("rope.scaling.yarn_beta_fast", 32.0, positive=True)
    beta_slow = settings.number("rope.scaling.yarn_beta_slow", 1.0, positive=True)

    fields: dict[str, Any] = {"rope_theta": theta, "rope_attention_factor": amplitude}
    if scaling == "none" or (scaling == "linear" and factor == 1.0):
        fields["rope_type"] = "default"
    elif scaling == "linear":
        fields |= {"rope_type": "linear", "rope_factor": factor}
    elif scaling == "yarn":
        if extrapolation != 1.0:
            raise settings.wrong("rope.scaling.yarn_ext_factor", "1: other mixtures of YaRN are not supported")
        _check_yarn_theta(settings, "rope.freq_base", scaling, theta)
        # The converter writes transformers' attention_factor under this key, which replaces YaRN's formula.
        yarn = yarn_attention_factor(factor) if yarn_amplitude is None else yarn_amplitude
        fields |= {
            "rope_type": "yarn",
            "rope_factor": factor,
            "rope_original_max_seq_len": original,
            "rope_attention_factor": amplitude * yarn,
            "rope_beta_fast": beta_fast,
            "rope_beta_slow": beta_slow,
        }
    else:
        raise settings.wrong("rope.scaling.type", "one of none, linear, yarn")
    if has_frequency_divisors and fields["rope_type"] != "default":
        raise settings.wrong("rope.scaling.type", "absent or none beside a rope_freqs.weight tensor")
    return fields


def warn_beyond_context(config: ModelConfig, context: int, path: object) -> None:
    """Warn if `context` tokens are more than the model was made for, and say what would be needed."""
    own = trained_context(config)
    if context <= own:
        return
    kind = "yarn" if config.rope_type == "default" else config.rope_type
    original = config.rope_original_max_seq_len or config.max_seq_len
    factor = math.ceil(10 * context / original) / 10
    warnings.warn(
        f"{path}: a context of {context} tokens is beyond the {own} that the model was made for, where answers get "
        "worse or fall apart. It would need RoPE scaling; if the model's authors allow it, that is in config.json "
        f'"rope_scaling": {{"rope_type": "{kind}", "factor": {factor:g}, "original_max_position_embeddings": '
        f"{original}}}. Otherwise ask for a smaller max_seq_len",
        stacklevel=4,
    )


def trained_context(config: ModelConfig) -> int:
    """How many tokens the model was made for, its RoPE scaling included."""
    original = config.rope_original_max_seq_len or config.max_seq_len
    stretched = original * config.rope_factor if config.rope_type != "default" else 0
    return max(config.max_seq_len, int(min(stretched, 2**31 - 1)))
