"""The configuration classes users pass to tinyllm: `ModelConfig`, `KVCacheConfig`, `GenerationConfig`.

Every class checks itself when it is made. A wrong field name or value raises `ConfigError`, which is a `ValueError`,
naming the field, the value and what is allowed. Instances are immutable; `dataclasses.replace(config, field=value)`
gives a changed copy and checks it again.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from ._checks import (
    check_boolean,
    check_choice,
    check_integer,
    check_number,
    reject_unknown_fields,
)
from .errors import ConfigError

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
DTYPES = ("float16", "bfloat16", "float32")
ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
GROUP_SIZES = (0, 32, 64, 128, 256)


class QuantizationType(enum.Enum):
    """How linear weights are held: int8 with 16-bit scales, or unquantised in the activation type."""

    W8A16 = "w8a16"
    NONE = "none"


@reject_unknown_fields
@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape and arithmetic of one decoder-only model, plus how tinyllm holds it. Counts are in elements or tokens.

    Checkpoint readers fill everything from the checkpoint; a configuration made by hand needs only the fields without
    a default.
    """

    vocab_size: int
    hidden_dim: int  # width of the residual stream
    intermediate_dim: int  # width of the MLP
    num_layers: int
    num_heads: int  # query heads
    num_kv_heads: int = 0  # key/value heads, a divisor of num_heads; 0 becomes num_heads
    head_dim: int = 0  # even; 0 becomes hidden_dim / num_heads
    max_seq_len: int = 2048  # the context the model was trained for
    architecture: str = "llama"  # one of ARCHITECTURES
    rms_norm_eps: float = 1e-6
    dtype: str = "float16"  # type of activations and KV cache, one of DTYPES (float32: CPU backend only)

    quantization: QuantizationType = QuantizationType.W8A16  # the enum or its value, "w8a16" or "none"
    group_size: int = 128  # consecutive input features that share one scale; 0 = one group a row

    tie_word_embeddings: bool = False  # logits use the embedding table, there is no lm_head
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # RMSNorm over each query and key head before RoPE (Qwen3)

    sliding_window: int = 0  # a token attends to itself and the window - 1 tokens before it; 0 = all
    sliding_window_first_layer: int = 0  # layers with this index or a higher one use the window

    rope_type: str = "default"  # one of ROPE_TYPES
    rope_theta: float = 10000.0
    rotary_dim: int = 0  # leading part of a head that RoPE turns, even; 0 becomes head_dim
    rope_factor: float = 1.0  # linear, dynamic, llama3, yarn: how far the context is stretched
    rope_low_freq_factor: float = 1.0  # llama3
    rope_high_freq_factor: float = 4.0  # llama3
    rope_original_max_seq_len: int = 0  # dynamic, llama3, yarn: context before stretching
    rope_attention_factor: float = 1.0  # multiplies cos and sin (yarn)
    rope_beta_fast: float = 32.0  # yarn
    rope_beta_slow: float = 1.0  # yarn
    rope_truncate: bool = True  # yarn: round the borders of the frequency ramp to whole dimensions

    recompute_activations: bool = False  # less activation memory for more time; logits stay the same

    def __post_init__(self) -> None:
        for field in ("vocab_size", "hidden_dim", "intermediate_dim", "num_layers", "num_heads", "max_seq_len"):
            check_integer(self, field, low=1)
        self._resolve_head_fields()
        check_choice(self, "architecture", ARCHITECTURES)
        check_choice(self, "dtype", DTYPES)
        object.__setattr__(self, "quantization", as_quantization(self.quantization))
        check_integer(self, "group_size")
        check_choice(self, "group_size", GROUP_SIZES)
        check_number(self, "rms_norm_eps", above=0.0)
        for field in ("tie_word_embeddings", "qkv_bias", "o_bias", "mlp_bias", "qk_norm"):
            check_boolean(self, field)
        check_integer(self, "sliding_window")
        check_integer(self, "sliding_window_first_layer")
        check_boolean(self, "recompute_activations")
        self._check_rope()

    def _resolve_head_fields(self) -> None:
        """Replace the zeros that mean "derive me" and check that the heads fit together."""
        check_integer(self, "num_kv_heads")
        check_integer(self, "head_dim")
        if self.num_kv_heads == 0:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        if self.num_heads % self.num_kv_heads != 0:
            raise ConfigError(
                f"ModelConfig.num_heads must be a multiple of num_kv_heads; "
                f"got num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}"
            )
        if self.head_dim == 0:
            if self.hidden_dim % self.num_heads != 0:
                raise ConfigError(
                    f"ModelConfig.hidden_dim must be a multiple of num_heads where head_dim is not given; "
                    f"got hidden_dim={self.hidden_dim}, num_heads={self.num_heads}"
                )
            object.__setattr__(self, "head_dim", self.hidden_dim // self.num_heads)
        check_integer(self, "rotary_dim")
        if self.rotary_dim == 0:
            object.__setattr__(self, "rotary_dim", self.head_dim)
        for field in ("head_dim", "rotary_dim"):
            if getattr(self, field) % 2 != 0:
                raise ConfigError(f"ModelConfig.{field} must be even, RoPE turns pairs; got {getattr(self, field)}")
        if self.rotary_dim > self.head_dim:
            raise ConfigError(
                f"ModelConfig.rotary_dim must be at most head_dim; "
                f"got rotary_dim={self.rotary_dim}, head_dim={self.head_dim}"
            )

    def _check_rope(self) -> None:
        check_choice(self, "rope_type", ROPE_TYPES)
        check_number(self, "rope_theta", above=0.0)
        for field in ("rope_factor", "rope_attention_factor", "rope_beta_fast", "rope_beta_slow"):
            check_number(self, field, above=0.0)
        check_number(self, "rope_low_freq_factor", above=0.0)
        check_number(self, "rope_high_freq_factor", above=0.0)
        check_integer(self, "rope_original_max_seq_len")
        check_boolean(self, "rope_truncate")
        if self.rope_type in ("dynamic", "llama3", "yarn") and self.rope_original_max_seq_len == 0:
            raise ConfigError(
                f"ModelConfig.rope_original_max_seq_len must be at least 1 for rope_type {self.rope_type!r}; got 0"
            )
        if self.rope_type == "llama3" and self.rope_high_freq_factor <= self.rope_low_freq_factor:
            raise ConfigError(
                f"ModelConfig.rope_high_freq_factor must be greater than rope_low_freq_factor; "
                f"got {self.rope_high_freq_factor} and {self.rope_low_freq_factor}"
            )
        if self.rope_type == "dynamic" and self.rotary_dim <= 2:
            # The stretched base is raised to rotary_dim / (rotary_dim - 2).
            raise ConfigError(f"ModelConfig.rotary_dim must be above 2 for rope_type 'dynamic'; got {self.rotary_dim}")


@reject_unknown_fields
@dataclass(frozen=True)
class KVCacheConfig:
    """Size of the paged KV cache, which is allocated once when a model is loaded.

    `num_pages` limits the pool to fewer pages than `max_batch_size` sequences of `max_seq_len` tokens need (requests
    then wait for free pages); None makes it large enough for all of them.
    """

    max_batch_size: int = 1  # sequences that run at the same time
    max_seq_len: int = 2048  # tokens a sequence, prompt and answer together
    num_pages: int | None = None

    def __post_init__(self) -> None:
        check_integer(self, "max_batch_size", low=1)
        check_integer(self, "max_seq_len", low=1)
        check_integer(self, "num_pages", low=1, optional=True)


@reject_unknown_fields
@dataclass(frozen=True)
class GenerationConfig:
    """How tokens are chosen and when generation stops.

    `temperature=0` is greedy decoding: the most likely token always, whatever top_k, top_p and min_p say.
    """

    max_new_tokens: int | None = None  # None: until the end of the context
    temperature: float = 0.0
    top_k: int = 0  # keep the k most likely tokens; 0 = off
    top_p: float = 1.0  # keep the most likely tokens that together reach this probability; 1 = off
    min_p: float = 0.0  # drop tokens less likely than this share of the most likely one; 0 = off
    repetition_penalty: float = 1.0  # divides (if positive) or multiplies logits of tokens already seen; 1 = off
    seed: int | None = None  # None: a fresh random one a request
    stop: Sequence[str] = ()  # texts that end the answer and are not part of it; one string stands for itself
    logprobs: bool = False  # report the log-probability of every generated token
    ignore_eos: bool = False  # go on past end-of-text tokens

    def __post_init__(self) -> None:
        check_integer(self, "max_new_tokens", low=1, optional=True)
        check_number(self, "temperature", low=0.0)
        check_integer(self, "top_k")
        check_number(self, "top_p", above=0.0, high=1.0)
        check_number(self, "min_p", low=0.0, high=1.0)
        check_number(self, "repetition_penalty", above=0.0)
        check_integer(self, "seed", high=2**64 - 1, optional=True)
        object.__setattr__(self, "stop", _stop_strings(self.stop))
        check_boolean(self, "logprobs")
        check_boolean(self, "ignore_eos")


class GenerationSettings(TypedDict, total=False):
    """Fields of GenerationConfig as keywords, for type checkers; a test holds the two together."""

    max_new_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: Sequence[str]
    logprobs: bool
    ignore_eos: bool


def as_quantization(value: QuantizationType | str) -> QuantizationType:
    """The member of that value. ConfigError if there is none."""
    try:
        return QuantizationType(value)
    except ValueError:
        allowed = ", ".join(f"QuantizationType.{member.name} ({member.value!r})" for member in QuantizationType)
        raise ConfigError(f"ModelConfig.quantization must be one of {allowed}; got {value!r}") from None


def _stop_strings(value: object) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, Sequence) or isinstance(strings, bytes):
        raise ConfigError(f"GenerationConfig.stop must be a string or a list of strings; got {value!r}")
    for text in strings:
        if not isinstance(text, str) or not text:
            raise ConfigError(f"GenerationConfig.stop must hold non-empty strings; got {text!r}")
    return tuple(strings)
