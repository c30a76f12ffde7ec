"""Typed access to the key-value part of a checkpoint, and the rule for keys tinyllm does not know.

The rule, for `config.json` and for GGUF metadata alike: a checkpoint is run exactly or it is refused. A key is

- *understood* if the reader asked for it through `Settings`, which remembers every key it was asked for;
- *harmless* if the format's list says that it changes nothing about the forward pass (bookkeeping, training, token
  ids that the tokenizer handles);
- *neutral* if its value switches the feature off: null always; for keys whose meaning is known, the values listed
  below (`"is_causal": true` changes nothing, `"is_causal": false` does); for others false, "" and empty containers, 0
  for ordinary numbers, and 1 for keys that scale something (`..._multiplier`, `..._factor`, `..._ratio`, ...).

Any other key raises `CheckpointError` with its name and value, because ignoring it might change what the model says
without anybody noticing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._checks import INT32_MAX, is_finite_number
from ..errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

_REQUIRED: Any = object()
_SCALING_WORDS = ("multiplier", "scale", "scaling", "factor", "ratio", "fraction", "percent", "pct")

# Keys of other configurations whose values do not follow the rule, each with those that change nothing in the models
# tinyllm has: what is false or 0 there switches off a part that these models have, or is a value like any other.
_ALWAYS_PRESENT = (
    # masks and positions
    *("is_causal", "causal", "causal_mask", "causal_attention", "use_causal_mask", "attention.causal"),
    *("use_rope", "use_rotary", "use_rotary_embeddings", "use_rotary_emb", "use_rotary_position_embeddings", "rotary"),
    # norms and their order
    *("rms_norm", "rmsnorm", "use_rms_norm", "use_rmsnorm", "pre_norm", "prenorm", "normalize_before"),
    *("do_layer_norm_before", "final_norm", "use_final_norm", "final_layernorm", "elementwise_affine", "norm_affine"),
    # the gated MLP, scaled attention, layers without biases, residuals in turn
    *("swiglu", "use_swiglu", "use_glu", "glu_mlp", "gated_mlp", "use_gated_mlp", "scale_attn_weights"),
    *("no_bias", "sequential_residual"),
)
_NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(_ALWAYS_PRESENT, (True,)),
    # A factor of attention scores replaces 1 / sqrt(head_dim): at 1 it is not what these models compute.
    **dict.fromkeys(("attention_multiplier", "attention_scale", "attention_scaling", "attn_scale", "attn_scaling"), ()),
    **dict.fromkeys(("softmax_scale", "qk_scale", "query_scale", "query_pre_attn_scalar", "scale_depth"), ()),
    "clip_qkv": (),  # a limit of 0 would make every value 0
    # GGUF: llama.cpp reads 0 as "not given" in all of these
    "attention.scale": (0,),
    "rope.scaling.yarn_log_multiplier": (0,),
    **dict.fromkeys(("logit_scale", "residual_scale", "embedding_scale", "expert_weights_scale"), (0, 1)),
}


class Settings:
    """A mapping read key by key. `source` names the file (and section) in error messages.

    A key whose value is null counts as absent, as in transformers' configuration files.
    """

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self._values = values
        self.source = source
        self._understood: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it is stored, `default` where the key is absent or null; no type check."""
        self._understood.add(key)
        value = self._values.get(key)
        return default if value is None else value

    def integer(self, key: str, default: int | None = _REQUIRED, low: int = 0) -> Any:
        """An integer from `low` to 2^31 - 1."""
        value = self._present(key, default)
        if value is default:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= INT32_MAX:
            raise self.wrong(key, f"an integer from {low} to {INT32_MAX}")
        return value

    def number(self, key: str, default: float | None = _REQUIRED, positive: bool = False) -> Any:
        """A finite number, above zero if `positive`."""
        value = self._present(key, default)
        if value is default:
            return default
        if not is_finite_number(value) or (positive and value <= 0):
            raise self.wrong(key, "a finite number above 0" if positive else "a finite number")
        return float(value)

    def boolean(self, key: str, default: bool = _REQUIRED) -> bool:
        """True or false."""
        value = self._present(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str, default: str | None = _REQUIRED) -> Any:
        """A string."""
        value = self._present(key, default)
        if value is not default and not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def wrong(self, key: str, expected: str) -> CheckpointError:
        """The error for a value of the wrong type or range."""
        return CheckpointError(f"{self.source}: {key!r} must be {expected}; found {shorten(self._values.get(key))}")

    def unread(self, harmless: Container[str]) -> dict[str, Any]:
        """Keys nobody asked for that are neither harmless nor neutral (see the rule above), with their values."""
        return {
            key: value
            for key, value in self._values.items()
            if key not in self._understood and key not in harmless and not _is_neutral(key, value)
        }

    def refuse_unread(self, harmless: Container[str], reasons: Mapping[str, str]) -> None:
        """CheckpointError for the first key that is left over; `reasons` says more about well-known ones."""
        for key, value in self.unread(harmless).items():
            reason = reasons.get(
                key,
                "tinyllm does not know this key, so it may change what the model computes; if you know that it "
                "does not, remove it from a copy of the file",
            )
            raise CheckpointError(f"{self.source}: unsupported {key!r} = {shorten(value)}: {reason}")

    def _present(self, key: str, default: Any) -> Any:
        value = self.get(key, default)
        if value is _REQUIRED:
            raise CheckpointError(f"{self.source}: required key {key!r} is missing")
        return value


def _is_neutral(key: str, value: Any) -> bool:
    if value is None:
        return True
    if key in _NEUTRAL_VALUES:
        # With its type, because 1 and True, 0 and False are equal.
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in _NEUTRAL_VALUES[key])
    if value is False or value == "" or value == [] or value == {}:
        return True
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value == (1 if any(word in key for word in _SCALING_WORDS) else 0)


def shorten(value: Any, limit: int = 120) -> str:
    """`value` for a message: as Python writes it, which can be printed whatever it is, and not too long."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
