"""Checks shared by the configuration classes in config.py: one statement of how a field is refused.

Each `check_*` reads a field of a frozen dataclass instance, raises `ConfigError` naming class, field, allowed range
and value found, and stores the value back as a plain Python number, so that NumPy scalars are welcome.
"""

from __future__ import annotations

import difflib
import functools
import math
import numbers
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection

    from _typeshed import DataclassInstance

INT32_MAX = 2**31 - 1  # the native structs hold counts as 32-bit integers

# The native structs hold numbers as float32, where those outside these bounds would become infinite or (nearly) 0.
_FLOAT32_MAX = (2 - 2**-23) * 2.0**127
_FLOAT32_SMALLEST = 2.0**-126

# Names that other programs give to fields of ours. Nothing is here that means something else there.
_OTHER_NAMES = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_gen_len": "max_new_tokens",
    "n_predict": "max_new_tokens",
    "num_predict": "max_new_tokens",
    "rep_penalty": "repetition_penalty",
    "repeat_penalty": "repetition_penalty",
    "temp": "temperature",
    "random_seed": "seed",
    "stop_strings": "stop",
    "stop_sequences": "stop",
    "n_ctx": "max_seq_len",
    "max_model_len": "max_seq_len",
    "max_num_seqs": "max_batch_size",
}
_SAME_SPELLING = 0.9  # of difflib's ratio: a letter or two of a long name

_T = TypeVar("_T", bound="DataclassInstance")


def reject_unknown_fields(cls: type[_T]) -> type[_T]:
    """Class decorator: an unknown keyword raises ConfigError with the field that is meant, not a bare TypeError.

    Only a typing error is corrected, or another program's name for the same thing: "presence_penalty" is near
    "repetition_penalty" in letters but not in meaning.
    """
    generated_init = cls.__init__
    names = [field.name for field in fields(cls)]

    @functools.wraps(generated_init)
    def checked_init(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in names:
                meant = _meant(name, names)
                hint = f"did you mean {meant!r}?" if meant else f"valid fields: {', '.join(names)}"
                raise ConfigError(f"{cls.__name__} has no field {name!r}; {hint}")
        generated_init(self, *args, **kwargs)

    cls.__init__ = checked_init  # type: ignore[method-assign]
    return cls


def _meant(name: str, names: list[str]) -> str | None:
    """The name of which `name` is another spelling."""
    if _OTHER_NAMES.get(name) in names:
        return _OTHER_NAMES[name]
    letters = {_letters(known): known for known in names}
    near = [_letters(name)] if _letters(name) in letters else []
    if not near and len(name) >= 6:  # in a short name one letter is the meaning: top_k, top_p, min_p
        near = difflib.get_close_matches(_letters(name), letters, n=1, cutoff=_SAME_SPELLING)
    return letters[near[0]] if near else None


def _letters(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def check_integer(config: Any, field: str, low: int = 0, high: int = INT32_MAX, optional: bool = False) -> None:
    """Require an integer (not a bool) from `low` to `high`; with `optional`, None as well."""
    value = getattr(config, field)
    if optional and value is None:
        return
    if not is_integer(value, low, high):
        alternative = " or None" if optional else ""
        raise _out_of_range(config, field, f"an integer from {low} to {high}{alternative}", value)
    object.__setattr__(config, field, int(value))


def check_number(
    config: Any, field: str, low: float | None = None, above: float | None = None, high: float | None = None
) -> None:
    """Require a number (not a bool) that float32 holds and that is at least `low`, above `above` and at most `high`."""
    value = getattr(config, field)
    in_range = (
        is_finite_number(value)
        and (low is None or value >= low)
        and (above is None or value > above)
        and (high is None or value <= high)
    )
    if not in_range:
        limits = [("at least", low), ("greater than", above), ("at most", high)]
        allowed = " and ".join(f"{words} {limit:g}" for words, limit in limits if limit is not None)
        raise _out_of_range(config, field, f"a finite number {allowed}".rstrip(), value)
    if value != 0 and not _FLOAT32_SMALLEST <= abs(value) <= _FLOAT32_MAX:
        bounds = f"from {_FLOAT32_SMALLEST:.3g} to {_FLOAT32_MAX:.3g}"
        raise _out_of_range(
            config, field, f"a number that float32 holds, {'0 or ' if above is None else ''}{bounds}", value
        )
    object.__setattr__(config, field, float(value))


def is_finite_number(value: object) -> bool:
    """Whether `value` is a real number a C double can hold: not a bool, NaN, infinite or too large an integer."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_integer(value: object, low: int, high: int) -> bool:
    """Whether `value` is an integer (not a bool) from `low` to `high`."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and low <= int(value) <= high


def check_boolean(config: Any, field: str) -> None:
    """Require True or False; integers are refused because 0 and 1 in a flag are usually a swapped argument."""
    value = getattr(config, field)
    if not isinstance(value, bool):
        raise _out_of_range(config, field, "True or False", value)


def check_choice(config: Any, field: str, choices: Collection[Any]) -> None:
    """Require one of `choices`."""
    value = getattr(config, field)
    if value not in choices:
        raise _out_of_range(config, field, f"one of {', '.join(map(repr, choices))}", value)


def _out_of_range(config: Any, field: str, allowed: str, value: Any) -> ConfigError:
    return ConfigError(f"{type(config).__name__}.{field} must be {allowed}; got {value!r}")
