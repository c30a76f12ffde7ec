"""Generation defaults and end-of-text tokens that a checkpoint recommends."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .settings import Settings, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

_SAMPLING_FIELDS = ("temperature", "top_k", "top_p", "min_p")
_LONGEST_KEY = 60
_DEFAULT_TOP_K = 50  # what transformers samples from where the file says do_sample and no top_k

# Keys of transformers' GenerationConfig that leave probabilities alone, or that tinyllm's callers decide.
# fmt: off
_HARMLESS_KEYS = frozenset((
    "transformers_version", "_from_model_config", "trust_remote_code",
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id",
    "max_length", "max_new_tokens", "max_time", "num_return_sequences",
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile",
    "return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states",
    "remove_invalid_values", "renormalize_logits",
    "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "prompt_lookup_num_tokens", "is_assistant", "max_matching_ngram_size",
    "assistant_early_exit", "assistant_ensemble_weight", "speculation_type", "use_mtp", "prefill_chunk_size",
    "continuous_batching_config", "low_memory", "use_model_defaults",
    # only with num_beams, which is warned of
    "early_stopping", "length_penalty", "diversity_penalty",
    # only with an encoder
    "encoder_repetition_penalty", "encoder_no_repeat_ngram_size",
))
# fmt: on

# Values with which the keys tinyllm does not have do nothing, where that is not 0, false or null.
_INACTIVE_VALUES = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "typical_p": 1.0,
    "guidance_scale": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}


def huggingface_generation_defaults(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fields of tinyllm's `GenerationConfig` found in a `generation_config.json`.

    As in transformers, temperature, top_k, top_p and min_p hold only with `do_sample` true, and then a temperature
    that is not given is 1 and a top_k that is not given is 50. Settings tinyllm does not have cause a warning, not an
    error: they are recommendations and leave the model's logits alone.
    """
    settings = Settings(values, source)
    sampling = {field: settings.number(field, None) for field in _SAMPLING_FIELDS}
    defaults: dict[str, Any] = {}
    if settings.boolean("do_sample", False):
        defaults = {field: value for field, value in sampling.items() if value is not None}
        defaults.setdefault("temperature", 1.0)
        defaults.setdefault("top_k", float(_DEFAULT_TOP_K))
    if (top_k := defaults.get("top_k")) is not None and top_k.is_integer():
        defaults["top_k"] = int(top_k)
    penalty = settings.number("repetition_penalty", None)
    if penalty is not None:
        defaults["repetition_penalty"] = penalty
    stop = settings.get("stop_strings")
    if stop:
        defaults["stop"] = stop  # checked with all the others, by GenerationConfig
    _warn_about_rest(settings)
    return defaults


def gguf_generation_defaults(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fields of `GenerationConfig` found in GGUF metadata; `values` has the keys after `general.sampling.`."""
    settings = Settings(values, source)
    defaults = {
        "temperature": settings.number("temp", None),
        "top_k": settings.integer("top_k", None),
        "top_p": settings.number("top_p", None),
        "min_p": settings.number("min_p", None),
        "repetition_penalty": settings.number("penalty_repeat", None),
    }
    _warn_about_rest(settings)
    return {field: value for field, value in defaults.items() if value is not None}


def token_ids(value: Any, source: str, vocab_size: int) -> tuple[int, ...]:
    """One token id, a list of them, or None, as a tuple without repetitions. CheckpointError for anything else."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for token_id in ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < vocab_size:
            raise CheckpointError(f"{source}: expected a token id from 0 to {vocab_size - 1}, found {token_id!r}")
    return tuple(dict.fromkeys(ids))


def _warn_about_rest(settings: Settings) -> None:
    rest = {
        key: value
        for key, value in settings.unread(_HARMLESS_KEYS).items()
        if key not in _INACTIVE_VALUES or value != _INACTIVE_VALUES[key]
    }
    if rest:
        listed = ", ".join(f"{_shown(key)}={shorten(value)}" for key, value in rest.items())
        warnings.warn(f"{settings.source}: tinyllm does not have these generation settings: {listed}", stacklevel=2)


def _shown(key: str) -> str:
    return key if key.isidentifier() and len(key) < _LONGEST_KEY else shorten(key)
