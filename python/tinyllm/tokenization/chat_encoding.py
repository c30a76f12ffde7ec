"""Token ids of a conversation in which the texts of control tokens stay text where a message has them.

A chat template writes one text, in which "<|im_end|>" ends a turn whether the template wrote it or a user did. To tell
them apart, the conversation is rendered a second time with every such text in the messages replaced by a character
that occurs nowhere else. Where putting the texts back gives exactly the first rendering, the template has only moved
them, and the split is safe: the control tokens of the second rendering are the template's own, and what is between
them is encoded as text alone.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from .messages import map_strings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import tokenizers

# Characters for private use, which no text is likely to have; those that it has are passed over.
_PRIVATE = ((0xF0000, 0xFFFFE), (0x100000, 0x10FFFE))


class ControlTokens:
    """The control tokens of one tokenizer, in texts. Immutable; safe to use from several threads."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._ids = {token_id for token_id, token in backend.get_added_tokens_decoder().items() if token.special}
        texts = {backend.id_to_token(token_id) for token_id in self._ids}
        longest_first = sorted(filter(None, texts), key=len, reverse=True)  # as tokenizers finds them
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def in_messages(self, messages: list[dict[str, Any]]) -> bool:
        """Whether a message has the text of a control token, and a text would become that token."""
        if self._pattern is None or self._backend.encode_special_tokens:
            return False
        pattern, texts = self._pattern, list[str]()
        map_strings(messages, lambda text: texts.append(text) or text)  # type: ignore[func-returns-value]
        return any(pattern.search(text) for text in texts)

    def mark(self, messages: list[dict[str, Any]], text: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """The messages with marks in place of those texts, and what each mark stands for.

        Args:
            messages: for which `in_messages` is true.
            text: the conversation as it is; no mark is a character of it.
        """
        used = set(text)
        unused = (mark for mark in map(chr, chain.from_iterable(range(*span) for span in _PRIVATE)) if mark not in used)
        marks: dict[str, str] = {}

        def replace(found: re.Match[str]) -> str:
            if found[0] not in marks:
                marks[found[0]] = _next_mark(unused)
            return marks[found[0]]

        pattern = self._pattern
        assert pattern is not None  # `in_messages` was true
        marked = map_strings(messages, lambda value: pattern.sub(replace, value))
        return marked, {mark: value for value, mark in marks.items()}

    def encode(self, marked_text: str, marks: dict[str, str]) -> list[int] | None:
        """Token ids of a rendering of marked messages; None where this tokenizer cannot be split."""
        if not self._splits_exactly:
            return None
        encoding = self._backend.encode(marked_text, add_special_tokens=False)
        ids: list[int] = []
        run: list[int] = []  # since the last control token, which ended at `run_start`
        run_start = 0
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id in self._ids:
                ids += [*self._plain_ids(run, marked_text[run_start:start], run_start, marks), token_id]
                run, run_start = [], end
            else:
                run.append(token_id)
        return ids + self._plain_ids(run, marked_text[run_start:], run_start, marks)

    def _plain_ids(self, ids: list[int], text: str, start: int, marks: dict[str, str]) -> list[int]:
        """`ids` of a text between control tokens, or where there are marks in it those of what they stand for."""
        if not any(mark in text for mark in marks):
            return ids
        backend = self._plain_backend if start == 0 else self._continuing_backend
        return list(backend.encode(unmark(text, marks), add_special_tokens=False).ids)

    @cached_property
    def _plain_backend(self) -> tokenizers.Tokenizer:
        """A copy of the tokenizer for which control tokens in a text are text."""
        return _plain_copy(self._backend.to_str())

    @cached_property
    def _continuing_backend(self) -> tokenizers.Tokenizer:
        """The same, for a text that stands behind a control token."""
        state = self._backend.to_str()
        if '"prepend_scheme":"first"' not in state:
            return self._plain_backend
        parsed = json.loads(state)
        for step in _steps(parsed["pre_tokenizer"], "pretokenizers"):
            if step.get("prepend_scheme") == "first":
                step["prepend_scheme"] = "never"
        return _plain_copy(json.dumps(parsed))

    @cached_property
    def _splits_exactly(self) -> bool:
        """Whether a text behind a control token is encoded as it would be alone: it is tried."""
        sample = " a b"
        for token_id in sorted(self._ids):
            ids = self._backend.encode(f"{self._backend.id_to_token(token_id)}{sample}", add_special_tokens=False).ids
            if ids[:1] == [token_id]:
                return ids[1:] == self._continuing_backend.encode(sample, add_special_tokens=False).ids
        return False


def unmark(text: str, marks: dict[str, str]) -> str:
    """The text with every mark replaced by what it stands for."""
    return text.translate({ord(mark): value for mark, value in marks.items()})


def _next_mark(unused: Iterator[str]) -> str:
    mark = next(unused, None)
    if mark is None:
        raise ValueError("the conversation has every character for private use; leave some out")
    return mark


def _plain_copy(state: str) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_str(state)
    backend.encode_special_tokens = True
    return backend


def _steps(node: dict[str, Any] | None, children: str) -> Iterator[dict[str, Any]]:
    """The steps of a pre-tokenizer in its JSON form, nested sequences taken apart."""
    if node is not None and node["type"] == "Sequence":
        for child in node[children]:
            yield from _steps(child, children)
    elif node is not None:
        yield node
