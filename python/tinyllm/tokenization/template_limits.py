"""How much a chat template may take: the budget of one rendering, and the checks of values and operations.

template_environment.py says where they stand in a template.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

MAX_SECONDS = 5.0  # of this thread's own time
MAX_CHARACTERS = 1 << 23  # of the text, and of any value
MAX_VALUES = 1_000_000  # in a list or dict, with all that are inside
MAX_BITS = 1 << 14  # of an integer
MAX_WIDTH = 1_000_000  # to pad to, to indent by, to round to
MAX_TEMPLATE = 1 << 20  # characters of the template itself
MAX_MADE = 8 * MAX_CHARACTERS  # by all filters together: a lazy one makes many values before anything sees them
_BYTES_PER_VALUE = 8

_CONTAINERS = (list, tuple, set, frozenset, Mapping)
_TEXTS = (str, bytes)
_NUMBER = re.compile(r"\d+")
_WITH_WIDTHS = frozenset(
    ("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "batch", "slice", "round", "to_bytes")
)
_LINES_OR_WORDS = frozenset(("indent", "wordwrap", "expandtabs"))  # a width for each part of the text


class LimitExceededError(Exception):
    """A template went past a limit."""


class Budget:
    """What is left to one rendering."""

    def __init__(self) -> None:
        self._deadline = time.thread_time() + MAX_SECONDS
        self._to_write = MAX_CHARACTERS
        self._to_make = MAX_MADE

    def check_time(self) -> None:
        """LimitExceededError where the time is up."""
        if time.thread_time() > self._deadline:
            raise LimitExceededError(f"it takes more than {MAX_SECONDS:g} seconds")

    def write(self, characters: int) -> None:
        """Counts text that is written."""
        self._to_write -= characters
        if self._to_write < 0:
            raise LimitExceededError(f"it writes more than {MAX_CHARACTERS} characters")

    def make(self, value: Any) -> None:
        """Counts a value that a filter made."""
        if isinstance(value, _TEXTS):
            self._to_make -= len(value)
        elif isinstance(value, _CONTAINERS):
            self._to_make -= _BYTES_PER_VALUE * len(value)
        if self._to_make < 0:
            raise LimitExceededError("its filters make too many values")


_current: ContextVar[Budget] = ContextVar("tinyllm_template_budget")
current_budget = _current.get


@contextmanager
def limits() -> Iterator[None]:
    """Around one rendering: starts its budget."""
    token = _current.set(Budget())
    try:
        yield
    finally:
        _current.reset(token)


def checked(value: Any) -> Any:
    """`value`, if it is small with everything in it."""
    if isinstance(value, _TEXTS):
        check_size(len(value))
    elif isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise LimitExceededError(f"a number has {value.bit_length()} bits, more than {MAX_BITS}")
    elif isinstance(value, _CONTAINERS):
        _check_container(value)
    return value


def check_size(characters: int) -> None:
    """Before or after a text of this length is made."""
    if characters > MAX_CHARACTERS:
        raise LimitExceededError(f"a value has more than {MAX_CHARACTERS} characters")


def _check_container(container: Any) -> None:
    """Counts a value as often as it is in there: a list that holds another twice prints it twice."""
    values, characters = 0, 0
    open_containers = [container]
    while open_containers:
        node = open_containers.pop()
        values += 2 * len(node) if isinstance(node, Mapping) else len(node)
        if values > MAX_VALUES:
            raise LimitExceededError(f"a value has more than {MAX_VALUES} values in it")
        for child in (*node.keys(), *node.values()) if isinstance(node, Mapping) else node:
            if isinstance(child, _TEXTS):
                characters += len(child)
            elif isinstance(child, _CONTAINERS):
                open_containers.append(child)
        check_size(characters)


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Before an operator that could make a huge value of small ones."""
    if operator == "%" and isinstance(left, _TEXTS):
        _check_format(left, "%", right if isinstance(right, tuple) else (right,))
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        if left.bit_length() * max(right, 0) > MAX_BITS:
            raise LimitExceededError(f"a power has more than {MAX_BITS} bits")
    elif operator == "*":
        for sequence, count in ((left, right), (right, left)):
            if isinstance(sequence, (*_TEXTS, list, tuple)) and isinstance(count, int):
                most = MAX_CHARACTERS if isinstance(sequence, _TEXTS) else MAX_VALUES
                if len(sequence) * count > most:
                    raise LimitExceededError(f"a value of the length {len(sequence)} is repeated {count} times")


def check_call(name: str, subject: Any, arguments: Sequence[Any]) -> None:
    """Before a method or filter that could make a huge value of small ones."""
    numbers = [argument for argument in arguments if isinstance(argument, int)]
    texts = [argument for argument in arguments if isinstance(argument, str)]
    if name in _WITH_WIDTHS and any(abs(number) > MAX_WIDTH for number in numbers):
        raise LimitExceededError(f"{name} with a width of more than {MAX_WIDTH}")
    if not isinstance(subject, str):
        return
    if name in _LINES_OR_WORDS:
        check_size(len(subject) * max([1, *map(abs, numbers), *map(len, texts)]))
    elif name == "replace" and len(texts) >= 2:
        count = subject.count(texts[0]) if texts[0] else len(subject) + 1
        check_size(len(subject) + count * len(texts[1]))
    elif name == "join" and arguments and isinstance(arguments[0], _CONTAINERS):
        check_joined(subject, arguments[0])
    elif name in ("format", "format_map"):
        _check_format(subject, "{", arguments)
    elif name == "translate" and arguments and isinstance(arguments[0], Mapping):
        longest = max((len(text) for text in arguments[0].values() if isinstance(text, str)), default=1)
        check_size(len(subject) * longest)


def check_joined(separator: str, values: Iterable[Any]) -> None:
    """Before values are joined to one text."""
    lengths = [len(value) if isinstance(value, _TEXTS) else len(str(value)) for value in values]
    check_size(sum(lengths) + len(separator) * len(lengths))


def check_json_options(arguments: Iterable[Any]) -> None:
    """Before a value is written as JSON: what is written for each level or between two values."""
    for argument in arguments:
        if isinstance(argument, int) and argument > 64:
            raise LimitExceededError(f"JSON is indented by {argument}")
        if any(isinstance(text, str) and len(text) > 64 for text in (argument if _is_list(argument) else [argument])):
            raise LimitExceededError("JSON has a separator of more than 64 characters")


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _check_format(text: str | bytes, marker: str, arguments: Iterable[Any]) -> None:
    """A field of a format is as wide as its value, or as a number in the text or among the arguments says."""
    shown = text if isinstance(text, str) else text.decode("latin-1")
    widths = [len(digits) for digits in _NUMBER.findall(shown)]
    if max(widths, default=0) > 6:
        raise LimitExceededError("a text is formatted with a width of seven digits")
    widest = max((int(digits) for digits in _NUMBER.findall(shown)), default=0)
    for argument in arguments:
        widest = max(widest, abs(argument) if isinstance(argument, int) else 0)
        widest = max(widest, len(argument) if isinstance(argument, str) else len(str(argument)))
    check_size(len(shown) + shown.count(marker) * widest)
