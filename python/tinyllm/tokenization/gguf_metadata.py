"""Typed access to the tokenizer's metadata in a GGUF file, and the vocabulary in it."""

from __future__ import annotations

import enum
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import gguf

_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


class TokenType(enum.IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """What both kinds of tokenizer read from the file."""

    tokens: list[str]
    types: list[int]
    ids: dict[str, int]  # inverse of `tokens`

    def texts(self, *types: TokenType) -> list[str]:
        """The tokens of these types."""
        return [token for token, token_type in zip(self.tokens, self.types, strict=True) if token_type in types]


class Metadata:
    """The `tokenizer.*` fields of one file.

    Each getter raises CheckpointError for a value of another type, and gives None (or the default) where the file does
    not have the field.
    """

    def __init__(self, reader: gguf.GGUFReader, path: Path) -> None:
        self._reader = reader
        self.path = path

    def text(self, key: str) -> str | None:
        """A string."""
        value: str | None = self._get(key, lambda value: isinstance(value, str), "a string")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._get(key, lambda value: isinstance(value, bool), "true or false")
        return default if value is None else value

    def integer(self, key: str) -> int | None:
        """A whole number."""
        value: int | None = self._get(key, _is_integer, "an integer")
        return value

    def texts(self, key: str) -> list[str] | None:
        """A list of strings."""
        values: list[str] | None = self._list(key, lambda value: isinstance(value, str), "strings")
        return values

    def integers(self, key: str) -> list[int] | None:
        """A list of whole numbers."""
        values: list[int] | None = self._list(key, _is_integer, "integers")
        return values

    def numbers(self, key: str) -> list[float] | None:
        """A list of finite numbers."""
        values: list[float] | None = self._list(key, _is_number, "finite numbers")
        return values

    def required(self, getter: Callable[[str], Any], key: str) -> Any:
        """`getter(key)`, or CheckpointError when the file does not have the field."""
        value = getter(key)
        if value is None:
            raise CheckpointError(f"{self.path} has no tokenizer.{key}; convert the model again with its tokenizer")
        return value

    def _get(self, key: str, fits: Callable[[Any], bool], expected: str) -> Any:
        value = self._contents(key)
        if value is None or fits(value):
            return value
        raise self.wrong(key, expected, value)

    def _list(self, key: str, fits: Callable[[Any], bool], expected: str) -> Any:
        values = self._get(key, lambda value: isinstance(value, list), f"a list of {expected}")
        for index, value in enumerate(values or ()):
            if not fits(value):
                raise self.wrong(f"{key}[{index}]", f"a list of {expected}", value)
        return values

    def _contents(self, key: str) -> Any:
        field = self._reader.get_field(f"tokenizer.{key}")
        if field is None:
            return None
        try:
            return field.contents()
        except (UnicodeDecodeError, ValueError, IndexError) as error:
            raise CheckpointError(f"{self.path}: tokenizer.{key} cannot be read: {error}") from error

    def wrong(self, key: str, expected: str, value: Any) -> CheckpointError:
        """The error for a value of the wrong type or range."""
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        return CheckpointError(
            f"{self.path}: tokenizer.{key}: expected {expected}, found {type(value).__name__} {shown}"
        )


def read_vocabulary(metadata: Metadata) -> Vocabulary:
    """Tokens and their types. CheckpointError if they are missing, repeated or do not fit each other."""
    listed = metadata.required(metadata.texts, "ggml.tokens")
    if not listed:
        raise CheckpointError(f"{metadata.path}: tokenizer.ggml.tokens: expected one token or more, found none")
    # llama.cpp's stand-in for an empty token, which no text could produce.
    tokens = [token or f"[EMPTY_{token_id}]" for token_id, token in enumerate(listed)]
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        repeated = next(token for token_id, token in enumerate(tokens) if ids[token] != token_id)
        raise CheckpointError(f"{metadata.path}: tokenizer.ggml.tokens has {repeated!r} more than once")
    types = metadata.integers("ggml.token_type")
    if types is None:
        types = [TokenType.BYTE if _BYTE_TOKEN.fullmatch(token) else TokenType.NORMAL for token in tokens]
    check_length(metadata, "ggml.token_type", types, tokens)
    return Vocabulary(tokens, types, ids)


def check_length(metadata: Metadata, key: str, values: list[Any], tokens: list[str]) -> None:
    """CheckpointError unless there is one value per token."""
    if len(values) != len(tokens):
        raise CheckpointError(
            f"{metadata.path}: tokenizer.{key} has {len(values)} entries, but there are {len(tokens)} tokens"
        )


def read_token_id(metadata: Metadata, vocabulary: Vocabulary, name: str, default: int | None = None) -> int | None:
    """The id of the token that the file calls `name`. CheckpointError if there is no such token."""
    token_id = metadata.integer(f"ggml.{name}_token_id")
    token_id = default if token_id is None else token_id
    if token_id is not None and not 0 <= token_id < len(vocabulary.tokens):
        raise CheckpointError(
            f"{metadata.path}: tokenizer.ggml.{name}_token_id is {token_id}, but there are only"
            f" {len(vocabulary.tokens)} tokens"
        )
    return token_id


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
