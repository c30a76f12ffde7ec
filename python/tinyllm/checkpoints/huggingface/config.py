"""`config.json` of a Hugging Face checkpoint -> `ModelConfig`.

Names, defaults and consequences of the keys are those of transformers 5.24: `configuration_utils.py` and
`models/{llama,mistral,qwen2,qwen3}`. settings.py states what happens to keys that are not understood,
docs/config-keys.md lists them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...config import DTYPES, ModelConfig
from ...errors import CheckpointError, ConfigError
from ..rope import huggingface_rope
from ..settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class _Family:
    """What the configuration class of one model type fills in where a key is absent."""

    name: str  # model_type in config.json and architecture in ModelConfig
    max_seq_len: int
    num_kv_heads: int | None = None  # None: as many as query heads
    head_dim: int | None = None  # None: hidden_size / num_attention_heads


_FAMILIES = {
    "LlamaForCausalLM": _Family("llama", max_seq_len=2048),
    "MistralForCausalLM": _Family("mistral", max_seq_len=131072, num_kv_heads=8),
    "Qwen2ForCausalLM": _Family("qwen2", max_seq_len=32768, num_kv_heads=32),
    "Qwen3ForCausalLM": _Family("qwen3", max_seq_len=32768, num_kv_heads=32, head_dim=128),
}

_SLIDING_WINDOW = 4096  # where the key is absent; null switches the window off

# Keys of transformers' configuration classes that leave the forward pass of these models alone.
# fmt: off
_HARMLESS_KEYS = frozenset((
    # bookkeeping
    "_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "transformers.js_config",
    "is_llama_config", "unsloth_version", "unsloth_fixed", "max_sequence_length",
    # classification and task labels, which a language model does not have
    "id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params",
    # token ids and texts: the tokenizer's and generation_config.json's business
    "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id",
    "decoder_start_token_id", "tokenizer_class", "prefix",
    # training only
    "initializer_range", "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop",
    "gradient_checkpointing", "neftune_noise_alpha",
    # what a call returns and how it is computed, not what is computed. pretraining_tp split matrix products in
    # transformers 4, which is the same sum, and does nothing in transformers 5.
    "use_cache", "return_dict", "output_attentions", "output_hidden_states", "output_scores",
    "return_dict_in_generate", "torchscript", "chunk_size_feed_forward", "pretraining_tp", "use_bfloat16",
    "attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "experts_implementation",
    "_experts_implementation", "tie_encoder_decoder", "tie_last_hidden_states", "is_decoder",
    # generation settings of old files; transformers drops them in favour of generation_config.json
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "bad_words_ids", "num_return_sequences",
    "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty",
    "suppress_tokens", "begin_suppress_tokens", "epsilon_cutoff", "eta_cutoff",
))
# fmt: on

_PRE_QUANTISED = "pre-quantised checkpoints are not supported yet; use the original 16-bit checkpoint or a GGUF file"
_EXPERTS = "mixtures of experts are not supported"
_REASONS = {
    "quantization_config": _PRE_QUANTISED,
    "compression_config": _PRE_QUANTISED,
    "quantization": _PRE_QUANTISED,  # MLX
    "num_local_experts": _EXPERTS,
    "num_experts": _EXPERTS,
    "auto_map": "checkpoints that bring their own model code are not supported",
    "sliding_window": "this model type has no sliding window in transformers",
}


def read_model_config(values: Mapping[str, Any], source: str, stored_dtype: Callable[[], str]) -> ModelConfig:
    """The `ModelConfig` that `config.json` states; dtype is the checkpoint's own.

    `values` is the parsed file, `source` its path for messages. `stored_dtype` is asked for the dtype of the weights
    only where the file names none. Raises CheckpointError.
    """
    settings = Settings(values, source)
    family = _family(settings)
    num_layers = settings.integer("num_hidden_layers", low=1)
    max_seq_len = settings.integer("max_position_embeddings", family.max_seq_len, low=1)
    _check_activation(settings)
    fields = {
        "architecture": family.name,
        "vocab_size": settings.integer("vocab_size", low=1),
        "hidden_dim": settings.integer("hidden_size", low=1),
        "intermediate_dim": settings.integer("intermediate_size", low=1),
        "num_layers": num_layers,
        "max_seq_len": max_seq_len,
        "rms_norm_eps": settings.number("rms_norm_eps", 1e-6, positive=True),
        "dtype": _dtype(settings, stored_dtype),
        "tie_word_embeddings": settings.boolean("tie_word_embeddings", False),  # False in all four classes
        **_heads(settings, family),
        **_blocks(settings, family),
        **_sliding_window(settings, family, num_layers),
        **huggingface_rope(settings, max_seq_len),
    }
    settings.refuse_unread(_HARMLESS_KEYS, _REASONS)
    try:
        return ModelConfig(**fields)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _family(settings: Settings) -> _Family:
    """The model type, which the class name under `architectures` and `model_type` must agree on."""
    model_type = settings.get("model_type")
    names = settings.get("architectures") or [name for name, family in _FAMILIES.items() if family.name == model_type]
    name = names[0] if isinstance(names, list) and names else names
    family = _FAMILIES.get(name) if isinstance(name, str) else None
    if family is None or model_type not in (None, family.name):
        raise CheckpointError(
            f"{settings.source}: architecture {name!r} (model_type {model_type!r}) is not supported; "
            f"supported: {', '.join(f'{name} ({family.name})' for name, family in _FAMILIES.items())}"
        )
    return family


def _check_activation(settings: Settings) -> None:
    activation = settings.text("hidden_act", "silu")
    if activation not in ("silu", "swish"):  # two names of x * sigmoid(x)
        raise settings.wrong("hidden_act", "'silu', the only activation tinyllm has")


def _dtype(settings: Settings, stored_dtype: Callable[[], str]) -> str:
    older = settings.text("torch_dtype", None)
    dtype: str | None = settings.text("dtype", older)
    if dtype is None:
        return stored_dtype()
    dtype = dtype.removeprefix("torch.")
    if dtype not in DTYPES:
        raise CheckpointError(f"{settings.source}: dtype {dtype!r} is not supported; supported: {', '.join(DTYPES)}")
    return dtype


def _heads(settings: Settings, family: _Family) -> dict[str, int]:
    num_heads = settings.integer("num_attention_heads", low=1)
    # Null means one KV head a query head in every class; only an absent key falls back to the class's default.
    absent_kv_heads = num_heads if "num_key_value_heads" in settings else family.num_kv_heads or num_heads
    return {
        "num_heads": num_heads,
        "num_kv_heads": settings.integer("num_key_value_heads", absent_kv_heads, low=1),
        "head_dim": settings.integer("head_dim", family.head_dim or 0, low=1),  # 0: ModelConfig derives it
    }


def _blocks(settings: Settings, family: _Family) -> dict[str, bool]:
    """Which biases and norms the decoder layers have."""
    if family.name == "llama":
        bias = settings.boolean("attention_bias", False)
        return {"qkv_bias": bias, "o_bias": bias, "mlp_bias": settings.boolean("mlp_bias", False)}
    if family.name == "qwen2":
        return {"qkv_bias": True}  # not configurable: Qwen2Attention always has it
    if family.name == "qwen3":
        bias = settings.boolean("attention_bias", False)
        return {"qkv_bias": bias, "o_bias": bias, "qk_norm": True}
    return {}


def _sliding_window(settings: Settings, family: _Family, num_layers: int) -> dict[str, int]:
    """The window in tokens and the first layer that has it.

    Mistral: every layer, unless `sliding_window` is null. Qwen2 and Qwen3: the layers that `layer_types` marks, or
    else those from `max_window_layers` on, if `use_sliding_window` is true and `sliding_window` is not null.
    """
    if family.name == "mistral":
        default = None if "sliding_window" in settings else _SLIDING_WINDOW
        window = settings.integer("sliding_window", default, low=1)
        first_layer = 0
    elif family.name in ("qwen2", "qwen3"):
        default = None if "sliding_window" in settings else _SLIDING_WINDOW
        window = settings.integer("sliding_window", default, low=1)
        if not settings.boolean("use_sliding_window", False):
            window = None
        first_layer = settings.integer("max_window_layers", 28)
    else:
        window, first_layer = None, 0
    if window is None:
        first_layer = num_layers
    layer_types = settings.get("layer_types")
    if layer_types is not None:
        first_layer = _first_sliding_layer(settings, layer_types, num_layers, window, first_layer, family)
    return {"sliding_window": window, "sliding_window_first_layer": first_layer} if first_layer < num_layers else {}


def _first_sliding_layer(
    settings: Settings, layer_types: Any, num_layers: int, window: int | None, implied: int, family: _Family
) -> int:
    """Index of the first "sliding_attention" entry; all after it must be the same, which is what tinyllm can run."""
    if not isinstance(layer_types, list) or len(layer_types) != num_layers:
        raise settings.wrong("layer_types", f"a list of {num_layers} entries")
    first = layer_types.index("sliding_attention") if "sliding_attention" in layer_types else num_layers
    if layer_types != ["full_attention"] * first + ["sliding_attention"] * (num_layers - first):
        raise settings.wrong(
            "layer_types", "'full_attention' for all layers, or for the first ones and then 'sliding_attention'"
        )
    if window is None and first < num_layers:
        raise settings.wrong("layer_types", "'full_attention' everywhere, because no sliding window is switched on")
    if family.name in ("llama", "mistral") and first != implied:
        # Classes without this key: transformers ignores it, other programs do not.
        raise settings.wrong("layer_types", "consistent with 'sliding_window', which decides for this model type")
    return first
