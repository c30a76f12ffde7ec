"""Tokenizers built from GGUF metadata, against tokenizers, transformers and sentencepiece."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm.errors import CheckpointError
from tinyllm.tokenization.charsmap import charsmap_error
from tinyllm.tokenization.gguf import load_gguf_tokenizer
from tinyllm.tokenization.pretokenizers import PRE_TOKENIZERS
from tokenizer_files import (
    CORPUS,
    TEXTS,
    byte_level_backend,
    byte_level_fields,
    gguf_tokenizer,
    sentencepiece_fields,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tinyllm.tokenization.tokenizer import Tokenizer

# SentencePiece ends a text at U+0000, and does not read "<s>" in a text as the control token.
SENTENCEPIECE_TEXT = st.text(st.characters(exclude_characters="\x00<", exclude_categories=("Cs",)), max_size=40)


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path) -> Tokenizer:
    return load_gguf_tokenizer(gguf.GGUFReader(smollm2_gguf), smollm2_gguf)


@pytest.fixture(scope="session")
def smollm2_reference(smollm2_gguf: Path) -> Any:
    """transformers' tokenizer from the same file, with the pre-tokenizer of SmolLM2's tokenizer.json.

    transformers does not know the name "smollm" and splits as GPT-2 does, which differs for several spaces before a
    digit.
    """
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    from tokenizers import pre_tokenizers

    reference = transformers.AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    digits = pre_tokenizers.Digits(individual_digits=True)
    reference.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return reference


def test_smollm2_gives_the_published_ids(smollm2: Tokenizer) -> None:
    # Ids that other implementations' tests list for SmolLM2-135M-Instruct.
    assert smollm2.encode("Hello world! 123") == [19556, 905, 17, 216, 33, 34, 35]
    assert smollm2.encode("  multiple   spaces") == [216, 2701, 256, 5600]
    assert smollm2.encode("Café déjà vu.") == [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30]
    assert smollm2.encode("<|im_start|>a<|im_end|>") == [1, 81, 2]
    assert (smollm2.vocab_size, smollm2.bos_token_id) == (49152, 1)
    assert smollm2.eos_token_ids == (2, 0)  # <|im_end|>, and <|endoftext|> by its text


@pytest.mark.parametrize("text", TEXTS)
def test_smollm2_equals_transformers(smollm2: Tokenizer, smollm2_reference: Any, text: str) -> None:
    ids = smollm2.encode(text)
    assert ids == smollm2_reference(text).input_ids
    for skip in (True, False):
        assert smollm2.decode(ids, skip) == smollm2_reference.decode(ids, skip_special_tokens=skip)


def test_smollm2_equals_transformers_on_any_text(smollm2: Tokenizer, smollm2_reference: Any) -> None:
    @given(st.text(max_size=60))
    def check(text: str) -> None:
        ids = smollm2.encode(text)
        assert ids == smollm2_reference(text).input_ids
        assert smollm2.decode(ids) == smollm2_reference.decode(ids, skip_special_tokens=True)

    check()


def test_pre_tokenizers_are_those_of_transformers() -> None:
    mapping = pytest.importorskip(
        "transformers.integrations.gguf.gguf_tokenizer_mapping", reason="compares with transformers 5"
    )
    common = PRE_TOKENIZERS.keys() & mapping.GGUF_PRE_TOKENIZER_SPLITS.keys()
    assert {"llama-bpe", "qwen2", "tekken", "gpt-4o"} <= common
    for name in common:
        assert PRE_TOKENIZERS[name].patterns == (mapping.GGUF_PRE_TOKENIZER_SPLITS[name],), name


# What tells a family from the others: contractions, digits in threes or ones, newlines, changes of case, scripts.
SPLIT_TEXT = "I'LL don't 1234\n\n  FooBar!\n中文x"
SPLITS = {
    "llama-bpe": ["I", "'LL", " don", "'t", " ", "123", "4", "\n\n", " ", " FooBar", "!\n", "中文x"],
    "qwen2": ["I", "'LL", " don", "'t", " ", "1", "2", "3", "4", "\n\n", " ", " FooBar", "!\n", "中文x"],
    "seed-coder": ["I", "'LL", " don", "'t", " ", "1", "2", "3", "4", "\n\n", " ", " FooBar", "!", "\n", "中文x"],
    "tekken": ["I", "'LL", " don", "'t", " ", "1", "2", "3", "4", "\n\n", " ", " Foo", "Bar", "!\n", "中文x"],
    "gpt-4o": ["I'LL", " don't", " ", "123", "4", "\n\n", " ", " Foo", "Bar", "!\n", "中文x"],
    "gpt-2": ["I", "'", "LL", " don", "'t", " 1234", "\n\n ", " FooBar", "!", "\n", "中文x"],
    "smollm": ["I", "'", "LL", " don", "'t", " ", "1", "2", "3", "4", "\n\n ", " FooBar", "!", "\n", "中文x"],
    "deepseek-coder": [
        *("I", "'", "LL", " don", "'", "t", " ", "1", "2", "3", "4"),
        *("\n", "\n", " ", " FooBar", "!", "\n", "中文", "x"),
    ],
    "deepseek-llm": ["I", "'", "LL", " don", "'", "t", " ", "1234", "\n", "\n", " ", " FooBar", "!", "\n", "中文", "x"],
    "deepseek-v3": ["I", "'LL", " don", "'t", " ", "123", "4", "\n\n", " ", " FooBar", "!\n", "中文", "x"],
    "viking": ["I'LL", " don't", " ", "1", "2", "3", "4", "\n\n ", " FooBar", "!\n", "中文x"],
    "minicpm5": ["I", "'LL", " don", "'t", " ", "123", "4", "\n\n", " ", " FooBar", "!\n", "中文x"],
    "default": ["I", "'", "LL", " don", "'", "t", " ", "123", "4", "\n\n ", " FooBar", "!", "\n", "中文x"],
}


@pytest.mark.parametrize("name", SPLITS)
def test_each_family_splits_text_its_own_way(tmp_path: Path, name: str) -> None:
    # With the 256 byte characters as vocabulary and no merges, ids cannot show the pieces; the splitter itself does.
    tokenizer = gguf_tokenizer(tmp_path / "a.gguf", byte_level_fields(pre=name))
    pieces = tokenizer._backend.pre_tokenizer.pre_tokenize_str(SPLIT_TEXT)
    assert [SPLIT_TEXT[start:end] for _, (start, end) in pieces] == SPLITS[name]


def test_byte_level_file_equals_the_tokenizer_it_was_made_from(tmp_path: Path) -> None:
    tokenizer = gguf_tokenizer(tmp_path / "a.gguf", byte_level_fields())
    for text in [*TEXTS, *CORPUS, "a <think> b"]:
        assert tokenizer.encode(text) == byte_level_backend().encode(text).ids
    think = tokenizer.encode("<think>")
    assert (len(think), tokenizer.decode(think), tokenizer.decode(tokenizer.encode("a</s>"))) == (1, "<think>", "a")


def test_bos_and_eos_flags(tmp_path: Path) -> None:
    def ids(**changes: Any) -> list[int]:
        return gguf_tokenizer(tmp_path / "a.gguf", byte_level_fields(**changes)).encode("a")

    (letter,) = ids()
    bos, eos = byte_level_backend().token_to_id("<s>"), byte_level_backend().token_to_id("</s>")
    assert ids(add_bos_token=True) == [bos, letter]
    assert ids(add_bos_token=True, add_eos_token=True) == [bos, letter, eos]
    assert ids(pre="llama-bpe") == [bos, letter]  # this family adds BOS unless the file says otherwise
    assert ids(pre="llama-bpe", add_bos_token=False) == [letter]


def test_end_tokens_are_the_named_ones_and_those_known_by_their_text(tmp_path: Path) -> None:
    tokens = byte_level_fields()["ggml.tokens"]
    n_tokens = len(tokens)
    fields = byte_level_fields(
        tokens=[*tokens, "<|im_end|>", "<|other|>"],
        token_type=[*byte_level_fields()["ggml.token_type"], 1, 3],
        eot_token_id=n_tokens + 1,
    )
    tokenizer = gguf_tokenizer(tmp_path / "a.gguf", fields)
    eos = byte_level_backend().token_to_id("</s>")
    assert tokenizer.eos_token_ids == (eos, n_tokens + 1, n_tokens)
    assert tokenizer.encode("<|im_end|>") == [n_tokens]
    assert tokenizer.decode([n_tokens]) == ""


def test_ignore_merges_keeps_whole_tokens(tmp_path: Path) -> None:
    fields = byte_level_fields()
    unreachable = "zqj"  # no merge leads to it
    fields["ggml.tokens"] = [*fields["ggml.tokens"], unreachable]
    fields["ggml.token_type"] = [*fields["ggml.token_type"], 1]
    families = {"llama-bpe": 1, "glm4": 1, "chatglm-bpe": 1, "minicpm5": 1, "qwen2": 3, "dbrx": 3}
    for family, n_ids in families.items():
        fields |= {"ggml.pre": family, "ggml.add_bos_token": False}
        assert len(gguf_tokenizer(tmp_path / "a.gguf", fields).encode(unreachable)) == n_ids


def test_chat_templates_by_name(tmp_path: Path) -> None:
    fields = byte_level_fields() | {
        "chat_template": "plain",
        "chat_templates": ["tool_use"],
        "chat_template.tool_use": "with {{ tools | length }} tools",
    }
    tokenizer = gguf_tokenizer(tmp_path / "a.gguf", fields)
    messages = [{"role": "user", "content": "Hi"}]
    assert (tokenizer.chat_template, tokenizer.apply_chat_template(messages)) == ("plain", "plain")
    assert tokenizer.apply_chat_template(messages, tools=[{"name": "f"}]) == "with 1 tools"


def test_sentencepiece_style_by_hand(tmp_path: Path) -> None:
    tokenizer = gguf_tokenizer(tmp_path / "a.gguf", sentencepiece_fields())
    space, a, b, e_acute = (f"{token}" for token in ("\u2581", "a", "b", "é"))
    tokens = sentencepiece_fields()["ggml.tokens"]

    def pieces(text: str, **kwargs: Any) -> list[str]:
        return [tokens[token_id] for token_id in tokenizer.encode(text, **kwargs)]

    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, (2,))
    assert pieces("ab") == ["<s>", "\u2581ab"]
    assert pieces("", add_special_tokens=False) == []
    assert pieces("  b", add_special_tokens=False) == ["\u2581\u2581", space, b]
    # "ab" has the best score, so it is joined before "aa" can be.
    assert pieces("aab", add_special_tokens=False) == [space, "aab"]
    assert pieces("aaé", add_special_tokens=False) == [space, "aa", e_acute]
    # Neither a token nor a word of the vocabulary: bytes. A byte token's name in the text is only text.
    assert pieces("中", add_special_tokens=False) == [space, "<0xE4>", "<0xB8>", "<0xAD>"]
    assert pieces("<0x0A>", add_special_tokens=False)[-1] != "<0x0A>"
    # User-defined and control tokens are found in the text; what follows them begins with a space again.
    assert pieces("a<think>b</s>", add_special_tokens=False) == [space, a, "<think>", space, b, "</s>"]
    assert tokenizer.decode(tokenizer.encode("a<think>b</s>")) == "a<think> b"

    plain = gguf_tokenizer(tmp_path / "b.gguf", sentencepiece_fields(add_space_prefix=False, add_bos_token=False))
    assert [tokens[token_id] for token_id in plain.encode("ab ab")] == ["ab", "\u2581ab"]
    assert plain.decode(plain.encode(" ab")) == " ab"


@lru_cache(maxsize=4)
def trained_sentencepiece(normalization: str, remove_extra_whitespaces: bool) -> Any:
    """A small SentencePiece BPE model with byte fallback and a user-defined token."""
    import io

    sentencepiece = pytest.importorskip("sentencepiece", reason="compares with sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in CORPUS for line in text.split("\n") * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name=normalization,
        remove_extra_whitespaces=remove_extra_whitespaces,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def fields_of_sentencepiece(model: Any, **changes: Any) -> dict[str, Any]:
    """The GGUF fields that llama.cpp's converter writes for a SentencePiece model."""
    n_tokens = model.get_piece_size()
    types = [
        2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1
        for i in range(n_tokens)
    ]
    fields = {
        "ggml.model": "llama",
        "ggml.tokens": [model.id_to_piece(i) for i in range(n_tokens)],
        "ggml.scores": [model.get_score(i) for i in range(n_tokens)],
        "ggml.token_type": types,
        "ggml.add_bos_token": False,
    }
    return fields | {f"ggml.{name}": value for name, value in changes.items()}


@pytest.mark.parametrize("remove_extra_whitespaces", [False, True])
def test_sentencepiece_style_equals_sentencepiece(tmp_path: Path, remove_extra_whitespaces: bool) -> None:
    model = trained_sentencepiece("identity", remove_extra_whitespaces)
    fields = fields_of_sentencepiece(model, remove_extra_whitespaces=remove_extra_whitespaces)
    tokenizer = gguf_tokenizer(tmp_path / "a.gguf", fields)
    plain_texts = [text for text in TEXTS if "\x00" not in text and "<s>" not in text]

    @given(st.one_of(SENTENCEPIECE_TEXT, st.text("a bs\n", max_size=30), st.sampled_from([*CORPUS, *plain_texts])))
    def check(text: str) -> None:
        ids = model.encode(text)
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == model.decode(ids)

    check()


def test_sentencepiece_normalisation_rules(tmp_path: Path) -> None:
    model = trained_sentencepiece("nmt_nfkc", True)
    sentencepiece_model = pytest.importorskip("sentencepiece.sentencepiece_model_pb2", reason="reads the model's rules")
    proto = sentencepiece_model.ModelProto.FromString(model.serialized_model_proto())
    charsmap = list(proto.normalizer_spec.precompiled_charsmap)
    fields = fields_of_sentencepiece(model, remove_extra_whitespaces=True, precompiled_charsmap=charsmap)
    tokenizer = gguf_tokenizer(tmp_path / "a.gguf", fields)
    for text in ["\uff46\uff55\uff4c\uff4c width", "ﬁne ①½", "tab\there", "e\u0301", *CORPUS]:
        assert tokenizer.encode(text) == model.encode(text), text


BROKEN = {
    "no model": (byte_level_fields(model=None), "no tokenizer.ggml.model"),
    "unknown model": (byte_level_fields(model="bert"), "'bert' is not supported.*gpt2.*llama"),
    "unknown pre-tokenizer": (
        byte_level_fields(pre="new-bpe"),
        "'new-bpe'.*not supported; these are:.*llama-bpe.*smollm",
    ),
    "no tokens": (byte_level_fields(tokens=None), "no tokenizer.ggml.tokens"),
    "no merges": (byte_level_fields(merges=None), "no tokenizer.ggml.merges"),
    "merge of one token": (byte_level_fields(merges=["ab"]), "merges has 'ab'"),
    "merge of unknown tokens": (byte_level_fields(merges=["q zzz"]), "merges do not fit.*zzz"),
    "repeated token": (sentencepiece_fields(tokens=["a", "b", "a"]), "'a' more than once"),
    "too few types": (byte_level_fields(token_type=[1, 1]), "token_type has 2 entries.*tokens"),
    "too few scores": (sentencepiece_fields(scores=[0.0]), "scores has 1 entries"),
    "no scores": (sentencepiece_fields(scores=None), "no tokenizer.ggml.scores"),
    "id past the tokens": (byte_level_fields(eos_token_id=100000), "eos_token_id is 100000"),
    "BOS without id": (byte_level_fields(add_bos_token=True, bos_token_id=None), "BOS.*does not say which"),
    "wrong type": (byte_level_fields(tokens="a"), "tokens: expected a list of strings, found str 'a'"),
    "tokens that are numbers": (byte_level_fields(tokens=[1, 2]), r"tokens\[0\]: expected .* strings, found int 1"),
    "merges that are numbers": (byte_level_fields(merges=[1.5]), r"merges\[0\]: expected .* strings, found float 1.5"),
    "scores that are texts": (sentencepiece_fields(scores=["a"]), r"scores\[0\]: expected .* numbers, found str 'a'"),
    "score without a value": (
        sentencepiece_fields(scores=[0.0, float("nan")]),
        r"scores\[1\]: expected .* finite numbers, found float nan",
    ),
    "types that are texts": (byte_level_fields(token_type=["a"]), r"token_type\[0\]: expected .* integers, found str"),
    "id that is a flag": (byte_level_fields(eos_token_id=True), "eos_token_id: expected an integer, found bool True"),
    "flag that is a number": (byte_level_fields(add_bos_token=1), "add_bos_token: expected true or false, found int 1"),
    "template that is a number": (
        byte_level_fields() | {"chat_template": 1},
        "chat_template: expected a string, found",
    ),
    "short charsmap": (sentencepiece_fields(precompiled_charsmap=[1, 2]), "charsmap is damaged: expected 4 bytes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_metadata_is_named(tmp_path: Path, case: str) -> None:
    fields, message = BROKEN[case]
    path = tmp_path / "broken.gguf"
    with pytest.raises(CheckpointError, match=message) as error:
        gguf_tokenizer(path, fields)
    assert str(path) in str(error.value)


# Texts that are syntax where the tokenizers package reads a template: they must only ever be tokens.
@pytest.mark.parametrize("bos", ["$A", "$B", "$0", "$$", "$A:1", "<s:1>", "a b", "::", "<s>:0"])
def test_any_text_may_be_the_bos_token(tmp_path: Path, bos: str) -> None:
    fields = byte_level_fields(add_bos_token=True, add_eos_token=True)
    tokens = [bos if token == "<s>" else token for token in fields["ggml.tokens"]]
    tokenizer = gguf_tokenizer(tmp_path / "a.gguf", fields | {"ggml.tokens": tokens})
    bos_id, eos_id = tokens.index(bos), tokens.index("</s>")
    assert tokenizer.encode("x") == [bos_id, tokens.index("x"), eos_id]
    assert tokenizer.bos_token_id == bos_id


def test_a_space_prefix_belongs_to_sentencepiece(tmp_path: Path) -> None:
    tokenizer = gguf_tokenizer(tmp_path / "a.gguf", byte_level_fields(add_space_prefix=True))
    for text in CORPUS:
        assert tokenizer.encode(text) == byte_level_backend().encode(text).ids


def test_qwen_composes_accents(tmp_path: Path) -> None:
    composed, decomposed = "\u00e9\uac00", "e\u0301\u1100\u1161"
    for name, same in (("qwen2", True), ("qwen35", True), ("llama-bpe", False)):
        tokenizer = gguf_tokenizer(tmp_path / "a.gguf", byte_level_fields(pre=name))
        assert (tokenizer.encode(decomposed) == tokenizer.encode(composed)) is same, name


def test_a_file_names_more_end_tokens(tmp_path: Path) -> None:
    fields = byte_level_fields()
    n_tokens = len(fields["ggml.tokens"])
    names = ["eot", "eom", "fim_pad", "fim_rep", "fim_sep"]
    fields["ggml.tokens"] = [*fields["ggml.tokens"], *(f"<|{name}|>" for name in names)]
    fields["ggml.token_type"] = [*fields["ggml.token_type"], *([4] * len(names))]
    fields |= {f"ggml.{name}_token_id": n_tokens + index for index, name in enumerate(names)}
    tokenizer = gguf_tokenizer(tmp_path / "a.gguf", fields)
    assert tokenizer.eos_token_ids == (fields["ggml.eos_token_id"], *range(n_tokens, n_tokens + len(names)))
    assert tokenizer.decode(range(n_tokens, n_tokens + len(names))) == ""


def test_added_tokens_with_letters_of_the_byte_alphabet(tmp_path: Path) -> None:
    fields = byte_level_fields()
    n_tokens = len(fields["ggml.tokens"])
    fields["ggml.tokens"] = [*fields["ggml.tokens"], "café", "<ÿ>"]
    fields["ggml.token_type"] = [*fields["ggml.token_type"], 4, 3]
    tokenizer = gguf_tokenizer(tmp_path / "a.gguf", fields)
    ids = tokenizer.encode("un café<ÿ>é", add_special_tokens=False)
    assert n_tokens in ids
    assert n_tokens + 1 in ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == "un café<ÿ>é"


def charsmap(units: list[int], replacements: bytes) -> list[int]:
    trie = b"".join(unit.to_bytes(4, "little") for unit in units)
    return list(len(trie).to_bytes(4, "little") + trie + replacements)


def trie_of_one(byte: int, value: int, size: int = 512) -> list[int]:
    """The double array of a map with one key, `byte`."""
    units = [0] * size
    units[0] = 256 << 10  # the root: its children are at 256 ^ byte
    units[256 ^ byte] = (128 << 10) | 0x100 | byte  # the key ends here: its value is at the next index
    units[256 ^ byte ^ 128] = 0x80000000 | value
    return units


def test_a_charsmap_is_followed(tmp_path: Path) -> None:
    fields = sentencepiece_fields(precompiled_charsmap=charsmap(trie_of_one(ord("z"), 0), b"ab\0"))
    tokenizer = gguf_tokenizer(tmp_path / "a.gguf", fields)
    assert tokenizer.encode("z") == tokenizer.encode("ab")


DAMAGED_CHARSMAPS = {
    "size past the end": (list((0xFFFFFFF0).to_bytes(4, "little") + bytes(8)), "found 4294967280 bytes"),
    "no trie": (charsmap([], b"\0"), "found 0 bytes"),
    "half a unit": (list((6).to_bytes(4, "little") + bytes(8)), "whole units of 4, found 6 bytes"),
    "root past the end": (charsmap([1 << 20], b"\0"), "unit .* is expected, found 1 units"),
    "value past the end": (charsmap(trie_of_one(ord("z"), 99), b"ab\0"), "found 99"),
    "value inside a character": (charsmap(trie_of_one(ord("z"), 1), "é\0".encode()), "found 1"),
    "not UTF-8": (charsmap(trie_of_one(ord("z"), 0), b"\xff\0"), "replacements are not UTF-8"),
    "leaf past the end": (charsmap([*trie_of_one(ord("z"), 0)[: 256 ^ ord("z") ^ 128]], b"ab\0"), "is expected, found"),
}


@pytest.mark.parametrize("case", DAMAGED_CHARSMAPS)
def test_a_damaged_charsmap_is_refused(tmp_path: Path, case: str) -> None:
    values, message = DAMAGED_CHARSMAPS[case]
    with pytest.raises(CheckpointError, match=f"precompiled_charsmap is damaged: .*{message}"):
        gguf_tokenizer(tmp_path / "a.gguf", sentencepiece_fields(precompiled_charsmap=values))


@given(st.binary(max_size=200), st.integers(0, 60))
def test_no_charsmap_can_panic(data: bytes, units: int) -> None:
    """A map that passes the check is safe for every text; the tokenizers package is the judge."""
    from tokenizers import normalizers

    data = (units * 4).to_bytes(4, "little") + data
    if charsmap_error(data) is None:
        normalizer = normalizers.Precompiled(data)
        for code in range(1, 0x800):
            normalizer.normalize_str(chr(code) * 3)


def test_a_file_without_pre_tokenizer_name_warns(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"tokenizer\.ggml\.pre.*convert the model again"):
        gguf_tokenizer(tmp_path / "a.gguf", byte_level_fields(pre=None))
