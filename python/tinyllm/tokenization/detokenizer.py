"""From token ids back to text, one token at a time.

Byte-level tokens and byte-fallback tokens hold pieces of UTF-8 sequences, so the unit here is the byte: every token
becomes bytes, and an incremental UTF-8 decoder turns the bytes into text as soon as a character is complete. A whole
list of ids and a stream of ids take this same path, so both give the same text by construction.

The work a token takes does not depend on how many came before, and at most 3 bytes of an incomplete character are held.
"""

from __future__ import annotations

import codecs
import json
import operator
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .backend_errors import backend_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    import tokenizers

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")

_SUPPORTED = (
    "ByteLevel; Metaspace; any of Replace (of a string), ByteFallback, Fuse, Strip (at the start), in this order"
)


class Detokenizer:
    """The bytes that each token of one tokenizer stands for.

    It does what the decoder of the tokenizer.json does (https://huggingface.co/docs/tokenizers/api/decoders), with
    one difference: tokenizers' ByteFallback turns a run of byte tokens that is not UTF-8 as a whole into one U+FFFD
    a token, which cannot be said before the run has ended; here, as in SentencePiece, the valid characters of such a
    run are kept.

    Shared by all streams of a tokenizer; safe to use from several threads.
    """

    def __init__(self, backend: tokenizers.Tokenizer, origin: str) -> None:
        """Take from a tokenizer what its decoder would do with single tokens.

        Args:
            backend: gives token strings, the decoder, and which tokens are special.
            origin: the tokenizer's file, for messages.

        Raises:
            CheckpointError: the decoder is of a kind that works on more than one token at a time.
        """
        self._id_to_token = backend.id_to_token
        with backend_errors(f"{origin}: its tokens cannot be read"):
            added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self._added = {token_id: token.content for token_id, token in added.items()}
        self._cache: dict[int, bytes] = {}
        self._byte_level = False
        self._byte_fallback = False
        self._replacements: list[tuple[str, str]] = []
        # (string removed from the first token, text put before every other token)
        self._removed_from_first = ""
        self._separator = ""
        # The character, and how many of it at most, that are taken off the start of the text.
        self.strip_character, self.strip_count = "", 0

        with backend_errors(f"{origin}: the decoder cannot be read"):
            state = json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else None
        self._read_decoder(state, origin)

    def special_text(self, token_id: int) -> str:
        """The text by which a special token is known, "<|im_end|>" for example; "" for every other token."""
        return self._added[token_id] if token_id in self.special_ids else ""

    def piece(self, token_id: int, first: bool) -> bytes | None:
        """The bytes of a token; None when the tokenizer has no such token (rows that pad an embedding table).

        Args:
            token_id: 0 or more.
            first: no token has come before it.
        """
        piece = None if first else self._cache.get(token_id)
        if piece is None:
            try:
                token = self._id_to_token(token_id)
            except OverflowError as error:
                raise ValueError(f"a token id is a whole number from 0 on, got {token_id}") from error
            if token is not None:
                # An added token is found in a text as it stands, before any byte is written as a character: the é of
                # "café" is that letter, not the byte 0xE9.
                as_it_stands = self._byte_level and token_id in self._added
                piece = token.encode() if as_it_stands else self._to_bytes(token, first)
                if not first:
                    self._cache[token_id] = piece
        return piece

    def _to_bytes(self, token: str, first: bool) -> bytes:
        if self._byte_level:
            to_byte = _byte_of_character()
            # A token with any other character (an added token such as "<|中|>") stands for itself.
            if all(character in to_byte for character in token):
                return bytes(to_byte[character] for character in token)
            return token.encode()
        if first and self._removed_from_first:
            token = token.replace(self._removed_from_first, "")
        for old, new in self._replacements:
            token = token.replace(old, new)
        byte_token = _BYTE_TOKEN.fullmatch(token) if self._byte_fallback else None
        if byte_token:
            return bytes([int(byte_token[1], 16)])
        return token.encode() if first else (self._separator + token).encode()

    def _read_decoder(self, state: dict[str, Any] | None, origin: str) -> None:
        """Sets the fields from the JSON form of a `tokenizers` decoder."""
        if state is None:
            self._separator = " "  # tokenizers joins the tokens with spaces when there is no decoder
            return
        steps = list(_flat_steps(state))
        kinds = [step["type"] for step in steps]
        if kinds == ["ByteLevel"]:
            self._byte_level = True
        elif kinds == ["Metaspace"]:
            if steps[0]["prepend_scheme"] != "never":
                self._removed_from_first = steps[0]["replacement"]
            self._replacements.append((steps[0]["replacement"], " "))
        elif not self._read_steps(steps):
            raise CheckpointError(
                f"{origin}: the decoder {' + '.join(kinds)} is not supported; these are: {_SUPPORTED}"
            )

    def _read_steps(self, steps: list[dict[str, Any]]) -> bool:
        """Sets the fields from Replace, ByteFallback, Fuse and Strip steps; False for anything else."""
        order = ["Replace", "ByteFallback", "Fuse", "Strip"]
        if any(step["type"] not in order for step in steps):
            return False
        positions = [order.index(step["type"]) for step in steps]
        if positions != sorted(positions):
            return False
        for step in steps:
            if step["type"] == "Replace":
                if "String" not in step["pattern"]:
                    return False
                self._replacements.append((step["pattern"]["String"], step["content"]))
            elif step["type"] == "ByteFallback":
                self._byte_fallback = True
            elif step["type"] == "Strip":
                # Before Fuse it would strip every token; at the end it would hold all text back.
                if step["stop"] or "Fuse" not in {other["type"] for other in steps} or self.strip_count:
                    return False
                self.strip_character, self.strip_count = step["content"], step["start"]
        return True


class StreamDecoder:
    """Text of a growing sequence of token ids.

    The pieces returned by `push` and the one by `flush`, put together, are what `Tokenizer.decode` gives for all the
    ids. No piece ends in the middle of a character; bytes that cannot become a character come out as U+FFFD.

    One decoder belongs to one sequence; it is not shared between threads.
    """

    def __init__(
        self, detokenizer: Detokenizer, skip_special_tokens: bool = True, continues_text: bool = False
    ) -> None:
        """Begin a sequence.

        Args:
            detokenizer: of the tokenizer that made the ids.
            skip_special_tokens: leave out control tokens such as the end of sequence.
            continues_text: other text stands before this sequence. SentencePiece tokenizers begin every text with a
                space that decoding takes away again; in the middle of a text it is a real one and stays.
        """
        self._detokenizer = detokenizer
        self._skipped_ids = detokenizer.special_ids if skip_special_tokens else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._first = not continues_text
        self._strip_left = 0 if continues_text else detokenizer.strip_count

    def push(self, token_id: int) -> str:
        """The text that this token completes; "" while a character is incomplete.

        Raises:
            ValueError: `token_id` is negative or not a whole number.
        """
        try:
            token_id = operator.index(token_id)
        except TypeError as error:
            raise ValueError(f"a token id is a whole number from 0 on, got {token_id!r}") from error
        if token_id in self._skipped_ids:
            return ""
        piece = self._detokenizer.piece(token_id, self._first)
        if piece is None:
            return ""
        self._first = False
        return self._strip(self._utf8.decode(piece))

    def skipped_text(self, token_id: int) -> str:
        """The text of a special token that `push` leaves out; "" for a token that it does not."""
        return self._detokenizer.special_text(token_id) if token_id in self._skipped_ids else ""

    def flush(self) -> str:
        """Ends the sequence: U+FFFD if it stops in the middle of a character, else ""."""
        return self._strip(self._utf8.decode(b"", final=True))

    def _strip(self, text: str) -> str:
        while self._strip_left and text:
            if text[0] != self._detokenizer.strip_character:
                self._strip_left = 0
                break
            text = text[1:]
            self._strip_left -= 1
        return text


def _flat_steps(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The steps of a decoder, nested sequences taken apart."""
    if state["type"] == "Sequence":
        for step in state["decoders"]:
            yield from _flat_steps(step)
    else:
        yield state


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """The printable character for each byte in byte-level BPE vocabularies, inverted.

    As GPT-2 defined it (https://github.com/openai/gpt-2/blob/master/src/encoder.py): printable Latin-1 characters
    stand for themselves, the other 68 bytes for the characters from U+0100 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}
