"""Streaming detokenisation: equal to the whole, never a broken character, equal to what `tokenizers` decodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from tinyllm.errors import CheckpointError
from tinyllm.tokenization.tokenizer import Tokenizer
from tokenizer_files import byte_level_backend, sentencepiece_like_backend

if TYPE_CHECKING:
    from tinyllm.tokenization.detokenizer import StreamDecoder

REPLACEMENT = "\ufffd"


def metaspace_backend(scheme: str) -> Backend:
    backend = sentencepiece_like_backend()
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return backend


def no_decoder_backend() -> Backend:
    return Backend(models.WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a"))


BACKENDS = {
    "byte level": byte_level_backend(),
    "sentencepiece": sentencepiece_like_backend(),
    "sentencepiece without prefix": sentencepiece_like_backend(prefix=False),
    "metaspace": metaspace_backend("always"),
    "metaspace without prefix": metaspace_backend("never"),
    "no decoder": no_decoder_backend(),
}
TOKENIZERS = {name: Tokenizer(backend, origin=name) for name, backend in BACKENDS.items()}
# A few ids past every vocabulary are included: models may have more rows than their tokenizer has tokens.
IDS = st.lists(st.integers(0, max(tokenizer.vocab_size for tokenizer in TOKENIZERS.values()) + 3), max_size=40)


def push_all(decoder: StreamDecoder, ids: list[int]) -> list[str]:
    return [decoder.push(token_id) for token_id in ids]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(ids=IDS, skip_special_tokens=st.booleans())
def test_pieces_and_flush_add_up_to_decode(name: str, ids: list[int], skip_special_tokens: bool) -> None:
    tokenizer = TOKENIZERS[name]
    decoder = tokenizer.stream_decoder(skip_special_tokens)
    assert "".join(push_all(decoder, ids)) + decoder.flush() == tokenizer.decode(ids, skip_special_tokens)


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if not name.startswith("sentencepiece")])
@given(ids=IDS, skip_special_tokens=st.booleans())
def test_any_ids_decode_as_tokenizers_does(name: str, ids: list[int], skip_special_tokens: bool) -> None:
    expected = BACKENDS[name].decode(ids, skip_special_tokens=skip_special_tokens)
    assert TOKENIZERS[name].decode(ids, skip_special_tokens) == expected


@pytest.mark.parametrize("name", ["sentencepiece", "sentencepiece without prefix"])
@given(ids=IDS, skip_special_tokens=st.booleans())
def test_byte_fallback_decodes_as_tokenizers_does_where_bytes_are_utf8(
    name: str, ids: list[int], skip_special_tokens: bool
) -> None:
    expected = BACKENDS[name].decode(ids, skip_special_tokens=skip_special_tokens)
    text = TOKENIZERS[name].decode(ids, skip_special_tokens)
    # Where a run of byte tokens is invalid, tokenizers drops its valid characters too; see `Detokenizer`.
    assert (REPLACEMENT in text) == (REPLACEMENT in expected)
    if REPLACEMENT not in text:
        assert text == expected


@pytest.mark.parametrize("name", ["byte level", "sentencepiece"])
@given(text=st.text(max_size=30))
def test_a_stream_of_any_text_never_shows_a_broken_character(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text, add_special_tokens=False)
    decoder = tokenizer.stream_decoder(skip_special_tokens=False)
    shown = ""
    for piece in push_all(decoder, ids):
        shown += piece
        assert tokenizer.decode(ids, skip_special_tokens=False).startswith(shown)
    assert shown + decoder.flush() == tokenizer.decode(ids, skip_special_tokens=False)
    assert shown == text.replace("\u2581", " ") if name == "sentencepiece" else shown == text


def test_a_character_comes_out_with_its_last_byte() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    token_to_id = BACKENDS["sentencepiece"].token_to_id
    first, second, third = (token_to_id(f"<0x{byte:02X}>") for byte in "中".encode())
    letter = token_to_id("a")
    decoder = tokenizer.stream_decoder()
    assert push_all(decoder, [letter, first, second, third]) == ["a", "", "", "中"]
    # Never completed: seen as soon as another character begins, or at the end.
    assert push_all(decoder, [first, second, letter, first]) == ["", "", REPLACEMENT + "a", ""]
    assert decoder.flush() == REPLACEMENT
    # The valid character of an otherwise invalid run of bytes is kept.
    assert tokenizer.decode([first, second, third, first]) == "中" + REPLACEMENT


def test_prefix_space_goes_at_the_start_of_a_text_only() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    token_to_id = BACKENDS["sentencepiece"].token_to_id
    word = token_to_id("\u2581ab")
    end = token_to_id("</s>")
    assert push_all(tokenizer.stream_decoder(), [end, word, word]) == ["", "ab", " ab"]
    assert push_all(tokenizer.stream_decoder(continues_text=True), [word, word]) == [" ab", " ab"]
    assert push_all(tokenizer.stream_decoder(skip_special_tokens=False), [end, word]) == ["</s>", " ab"]
    spaces = token_to_id("\u2581\u2581")
    assert push_all(tokenizer.stream_decoder(), [spaces, word]) == [" ", " ab"]


def test_held_state_is_bounded() -> None:
    tokenizer = TOKENIZERS["byte level"]
    start_of_four = tokenizer.encode("🙂", add_special_tokens=False)[:1]
    decoder = tokenizer.stream_decoder()
    shown = "".join(push_all(decoder, start_of_four * 100))
    assert len(shown) == 99
    assert decoder.flush() == REPLACEMENT


@pytest.mark.parametrize("token_id", [-1, 1.0, "1", None])
def test_a_wrong_id_is_named(token_id: object) -> None:
    with pytest.raises(ValueError, match=f"token id.*{token_id}"):
        TOKENIZERS["byte level"].decode([token_id])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.WordPiece(),
        decoders.Strip(" ", 1, 0),
        decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]),
        decoders.Sequence([decoders.Fuse(), decoders.Replace("a", "b")]),
    ],
)
def test_a_decoder_that_cannot_stream_is_refused(decoder: decoders.Decoder) -> None:
    backend = no_decoder_backend()
    backend.decoder = decoder
    with pytest.raises(CheckpointError, match=r"here\.json: the decoder .* not supported; these are"):
        Tokenizer(backend, origin="here.json")
