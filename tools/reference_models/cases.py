"""The table of reference models: one row for each architecture, variant and file format."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .tokenizer import VOCAB_SIZE as TOKENIZER_VOCAB_SIZE


@dataclass(frozen=True)
class Case:
    """One small random model.

    `config` holds the keyword arguments of the transformers configuration class of `config["model_type"]`.
    `sequences` maps the suffix of a reference file to the length of its sequence in tokens: {"": 48} gives
    reference.npz, {"past": 56} gives reference-past.npz. Some are longer than the 64 tokens of a KV cache page.
    """

    name: str
    config: dict[str, Any]
    dtype: str = "bfloat16"  # stored type of a Hugging Face directory: "float32", "float16" or "bfloat16"
    sequences: dict[str, int] = field(default_factory=lambda: {"": 48})
    old_config_keys: bool = False  # config.json as transformers 4 wrote it: rope_theta, rope_scaling, torch_dtype
    num_shards: int = 1
    tokenizer: str = ""  # "": none, "jinja": template in chat_template.jinja, "json": in tokenizer_config.json
    generation: dict[str, Any] = field(default_factory=dict)  # non-default values of generation_config.json
    gguf_types: tuple[str, ...] = ()  # GGUF file instead: types that its matrices take in turn
    gguf_pre_tokenizer: str = "gpt-2"


def _config(model_type: str, hidden: int, intermediate: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    """Configuration with two layers; `theta` and `rope` are folded into rope_parameters."""
    rope = {"rope_type": "default", **more.pop("rope", {}), "rope_theta": more.pop("theta", 10000.0)}
    return {
        "model_type": model_type,
        "vocab_size": 80,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": rope,
        **more,
    }


# Original contexts of the scaled models are 16 to 48 tokens, so that the sequences of 48 to 56 tokens go past them.
# llama3's factors are chosen so that the few frequencies of a small head fall into all three of its ranges.
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.2,
    "high_freq_factor": 5.0,
    "original_max_position_embeddings": 48,
}
_YARN_ROPE = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}

HUGGING_FACE_CASES = (
    Case("llama2", _config("llama", 48, 72, 3, 3, rms_norm_eps=0.02), dtype="float16", old_config_keys=True),
    Case(
        "llama3",
        _config("llama", 40, 80, 4, 2, theta=500000.0, head_dim=16, vocab_size=TOKENIZER_VOCAB_SIZE + 4),
        sequences={"": 72},
        tokenizer="jinja",
        generation={"eos_token_id": [273, 275], "do_sample": True, "temperature": 0.6, "top_p": 0.9},
    ),
    Case(
        "llama31",
        _config("llama", 48, 72, 3, 1, theta=500000.0, rope=_LLAMA3_ROPE),
        sequences={"": 56},
    ),
    Case(
        "llama31_old_keys",
        _config("llama", 40, 64, 2, 1, theta=500000.0, rope=_LLAMA3_ROPE, head_dim=32),
        dtype="float16",
        sequences={"": 56},
        old_config_keys=True,
    ),
    Case(
        "llama_linear",
        _config("llama", 48, 64, 2, 2, rope={"rope_type": "linear", "factor": 2.5}, max_position_embeddings=24),
        dtype="float16",
        old_config_keys=True,
    ),
    Case(
        "llama_dynamic",
        _config("llama", 32, 56, 2, 1, rope={"rope_type": "dynamic", "factor": 3.0}, max_position_embeddings=24),
        dtype="float32",
        sequences={"past": 56, "within": 14},
    ),
    Case(
        "llama_yarn",
        _config("llama", 32, 48, 2, 1, head_dim=96, rope=_YARN_ROPE, max_position_embeddings=64),
        sequences={"": 56},
    ),
    Case(
        "llama_yarn_attention_factor",
        _config("llama", 48, 64, 2, 2, max_position_embeddings=64, rope={**_YARN_ROPE, "attention_factor": 1.4}),
        dtype="float16",
        sequences={"": 56},
        old_config_keys=True,
    ),
    Case(
        "llama_yarn_mscale",
        _config(
            "llama",
            48,
            64,
            2,
            1,
            head_dim=32,
            max_position_embeddings=64,
            rope={
                **_YARN_ROPE,
                "original_max_position_embeddings": 40,
                "mscale": 2.0,
                "mscale_all_dim": 0.5,
                "beta_fast": 2.0,
                "beta_slow": 0.5,
                "truncate": False,
            },
        ),
        sequences={"": 56},
    ),
    Case("llama_bias", _config("llama", 48, 64, 4, 2, attention_bias=True, mlp_bias=True), dtype="float16"),
    Case(
        "smollm2",  # widths that no power of two divides; in the real model 576 = 4.5 groups of 128
        _config("llama", 72, 136, 3, 1, theta=100000.0, tie_word_embeddings=True, vocab_size=TOKENIZER_VOCAB_SIZE),
        tokenizer="json",
        generation={"eos_token_id": 275},
    ),
    Case("tinyllama", _config("llama", 32, 56, 2, 1), dtype="float32"),
    Case(
        "mistral",
        _config("mistral", 48, 80, 3, 1, sliding_window=16, theta=1000000.0),
        sequences={"": 100},
        num_shards=2,
    ),
    Case(
        "mistral_head_dim_80",  # as in Mistral Nemo: head_dim is not hidden / heads, and there is no window
        _config("mistral", 40, 64, 2, 1, sliding_window=None, head_dim=80),
        dtype="float16",
    ),
    Case(
        "qwen2",
        _config(
            "qwen2",
            56,
            80,
            4,
            2,
            theta=1000000.0,
            tie_word_embeddings=True,
            rms_norm_eps=1e-6,
            use_sliding_window=False,
            sliding_window=12,
            max_window_layers=1,
        ),
    ),
    Case(
        "qwen2_window",
        _config(
            "qwen2",
            48,
            64,
            3,
            3,
            theta=1000000.0,
            rms_norm_eps=1e-6,
            use_sliding_window=True,
            sliding_window=12,
            max_window_layers=1,
        ),
        dtype="float16",
        sequences={"": 90},
    ),
    Case(
        "qwen3",
        _config("qwen3", 40, 56, 2, 1, theta=1000000.0, tie_word_embeddings=True, head_dim=128, rms_norm_eps=1e-6),
    ),
    Case(
        "qwen3_bias",
        _config("qwen3", 32, 48, 4, 2, theta=1000000.0, head_dim=16, attention_bias=True, rms_norm_eps=0.02),
        dtype="float32",
    ),
)

# Rows of a quantised GGUF matrix are whole blocks of 32 weights, so every width is a multiple of 32.
GGUF_CASES = (
    Case(
        "gguf_llama_f16",
        _config(
            "llama",
            32,
            64,
            4,
            2,
            tie_word_embeddings=True,
            rms_norm_eps=0.02,
            head_dim=16,
            vocab_size=TOKENIZER_VOCAB_SIZE,
        ),
        gguf_types=("F16",),
    ),
    Case(
        "gguf_llama31_mixed",
        _config("llama", 64, 96, 2, 1, theta=500000.0, rope=_LLAMA3_ROPE, vocab_size=TOKENIZER_VOCAB_SIZE),
        sequences={"": 56},
        gguf_types=("Q8_0", "Q4_0", "Q5_1", "BF16", "Q4_1", "Q5_0", "F32"),
        gguf_pre_tokenizer="llama-bpe",
    ),
    Case(
        "gguf_llama_linear_bias",
        _config(
            "llama",
            32,
            96,
            2,
            2,
            rope={"rope_type": "linear", "factor": 2.5},
            attention_bias=True,
            vocab_size=TOKENIZER_VOCAB_SIZE,
        ),
        gguf_types=("Q8_0",),
        gguf_pre_tokenizer="smollm",
    ),
    Case(
        "gguf_qwen2_yarn",
        _config("qwen2", 64, 64, 4, 2, theta=1000000.0, rope=_YARN_ROPE, vocab_size=TOKENIZER_VOCAB_SIZE),
        sequences={"": 56},
        gguf_types=("Q8_0",),
        gguf_pre_tokenizer="qwen2",
    ),
    Case(
        "gguf_qwen3",
        _config(
            "qwen3",
            32,
            64,
            2,
            1,
            theta=1000000.0,
            tie_word_embeddings=True,
            head_dim=64,
            vocab_size=TOKENIZER_VOCAB_SIZE,
        ),
        gguf_types=("F16", "Q8_0"),
        gguf_pre_tokenizer="qwen2",
    ),
)

CASES = HUGGING_FACE_CASES + GGUF_CASES
