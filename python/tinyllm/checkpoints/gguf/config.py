"""GGUF metadata -> `ModelConfig`.

Keys are those of the gguf package's `constants.py`, and mean what llama.cpp does with them. settings.py states what
happens to keys that are not understood.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...config import ModelConfig
from ...errors import CheckpointError, ConfigError
from ..rope import gguf_rope

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..settings import Settings

ARCHITECTURES = ("llama", "qwen2", "qwen3")  # "llama" also holds Mistral models

# tensor_data_layout tells where an early file came from; the layout of the tensors is the same.
_HARMLESS_KEYS = frozenset({"tensor_data_layout", "rope.scaling.finetuned"})

_EXPERTS = "mixtures of experts are not supported"
_REASONS = {"expert_count": _EXPERTS, "expert_used_count": _EXPERTS}


def read_model_config(
    settings: Settings, architecture: str, num_tokens: int | None, tensor_types: dict[str, str]
) -> ModelConfig:
    """The `ModelConfig` of a file.

    `settings` holds the metadata under the architecture's prefix, `num_tokens` the length of the tokenizer's list
    (None without one), `tensor_types` stored tensor name -> type. Raises CheckpointError.
    """
    num_heads = settings.integer("attention.head_count", low=1)
    max_seq_len = settings.integer("context_length", low=1)
    stated_vocab_size = settings.integer("vocab_size", num_tokens, low=1)
    if stated_vocab_size is None:
        raise CheckpointError(f"{settings.source}: expected 'vocab_size' or a list of tokens, found neither")
    fields = {
        "architecture": architecture,
        "vocab_size": stated_vocab_size if num_tokens is None else num_tokens,
        "hidden_dim": settings.integer("embedding_length", low=1),
        "intermediate_dim": settings.integer("feed_forward_length", low=1),
        "num_layers": settings.integer("block_count", low=1),
        "num_heads": num_heads,
        "num_kv_heads": settings.integer("attention.head_count_kv", num_heads, low=1),
        "head_dim": settings.integer("attention.key_length", 0),  # 0: ModelConfig derives it
        "max_seq_len": max_seq_len,
        "rms_norm_eps": settings.number("attention.layer_norm_rms_epsilon", positive=True),
        "dtype": _dtype(architecture, tensor_types.values()),
        "sliding_window": settings.integer("attention.sliding_window", 0),
        "tie_word_embeddings": "output.weight" not in tensor_types,
        "qkv_bias": "blk.0.attn_q.bias" in tensor_types,
        "o_bias": "blk.0.attn_output.bias" in tensor_types,
        "mlp_bias": "blk.0.ffn_gate.bias" in tensor_types,
        "qk_norm": architecture == "qwen3",
        **gguf_rope(settings, max_seq_len, "rope_freqs.weight" in tensor_types),
    }
    try:
        config = ModelConfig(**fields)
    except ConfigError as error:
        raise CheckpointError(f"{settings.source}: {error}") from error
    _check_head_widths(settings, config)
    if not settings.boolean("attention.causal", True):
        raise settings.wrong("attention.causal", "true: tinyllm generates text from left to right")
    settings.refuse_unread(_HARMLESS_KEYS, _REASONS)
    return config


def _check_head_widths(settings: Settings, config: ModelConfig) -> None:
    """Refuse what tinyllm does not have: it has one head width, all of which RoPE turns."""
    for key in ("attention.value_length", "rope.dimension_count"):
        if settings.integer(key, config.head_dim) != config.head_dim:
            raise settings.wrong(key, f"the width of a head ({config.head_dim})")


def _dtype(architecture: str, tensor_types: Collection[str]) -> str:
    """Type of activations. GGUF does not say which one the model was trained in.

    Files with bfloat16 weights say it indirectly. For others float16 is the better choice, it has three more bits of
    precision, except that activations of Qwen models exceed its range (QwenLM/Qwen3#761, #826, #868 for Qwen2,
    vllm-project/vllm#33972 for Qwen3).
    """
    return "bfloat16" if "BF16" in tensor_types or architecture != "llama" else "float16"
