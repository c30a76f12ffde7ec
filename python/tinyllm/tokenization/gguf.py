"""The tokenizer that the metadata of a GGUF file describes.

GGUF has no tokenizer.json: it stores vocabulary, merges or scores, token types and a few flags under `tokenizer.*`
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer). What they mean, and what holds when a flag is
absent, is what llama.cpp does with them (`src/llama-vocab.cpp`, `llama_vocab::impl::load`).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from .backend_errors import backend_errors
from .charsmap import charsmap_error
from .gguf_metadata import Metadata, TokenType, Vocabulary, check_length, read_token_id, read_vocabulary
from .pretokenizers import PRE_TOKENIZERS
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import gguf
    import tokenizers

_SPACE = "\u2581"  # SentencePiece writes a space as this character

# The end tokens that a file can name, the main one first. Those of fill-in-the-middle end an answer too: a model of
# code writes them where the next file or repository would begin.
_NAMED_END_TOKENS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")

# Tokens that end an answer whatever the file calls them; files often name only one of several (llama.cpp's list).
_END_TOKENS = frozenset(
    (
        "</s>",
        "<eos>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    )
)


def load_gguf_tokenizer(reader: gguf.GGUFReader, path: Path) -> Tokenizer:
    """Build the tokenizer that the metadata of a GGUF file describes.

    Args:
        reader: of the open file; it is not kept.
        path: the file, for messages.

    Raises:
        CheckpointError: metadata is missing or inconsistent, or names a tokenizer that is not supported.
    """
    metadata = Metadata(reader, path)
    model = metadata.required(metadata.text, "ggml.model")
    if model not in ("gpt2", "llama"):
        raise CheckpointError(
            f"{path}: the tokenizer {model!r} is not supported; these are: 'gpt2' (byte-level BPE) and 'llama'"
            " (SentencePiece BPE)"
        )
    vocabulary = read_vocabulary(metadata)
    # In files without the keys a SentencePiece model has its usual ids, and adds BOS.
    default_ids = {"bos": 1, "eos": 2, "unknown": 0} if model == "llama" else {}
    ids = {
        name: read_token_id(metadata, vocabulary, name, default_ids.get(name))
        for name in ("bos", "unknown", *_NAMED_END_TOKENS)
    }
    eos_ids = _eos_token_ids(vocabulary, ids)
    with backend_errors(f"{path}: the tokenizer cannot be built"):
        if model == "gpt2":
            backend, add_bos = _byte_level_bpe(metadata, vocabulary)
        else:
            backend, add_bos = _sentencepiece_bpe(metadata, vocabulary, ids["unknown"]), True
        _register_added_tokens(backend, vocabulary, [vocabulary.tokens[token_id] for token_id in eos_ids])
        _set_bos_and_eos(backend, metadata, vocabulary, ids, add_bos)
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown"}
    return Tokenizer(
        backend,
        origin=path,
        special_tokens={
            token: vocabulary.tokens[token_id] for token, name in names.items() if (token_id := ids[name]) is not None
        },
        eos_token_ids=eos_ids,
        chat_templates=_read_chat_templates(metadata),
    )


def _eos_token_ids(vocabulary: Vocabulary, ids: dict[str, int | None]) -> tuple[int, ...]:
    """The named end tokens, the main one first, then those known by their text."""
    named = [token_id for name in _NAMED_END_TOKENS if (token_id := ids[name]) is not None]
    by_text = sorted(vocabulary.ids[token] for token in _END_TOKENS if token in vocabulary.ids)
    return tuple(dict.fromkeys([*named, *by_text]))


def _byte_level_bpe(metadata: Metadata, vocabulary: Vocabulary) -> tuple[tokenizers.Tokenizer, bool]:
    """GPT-2's kind of tokenizer, and whether its family adds BOS unless the file says otherwise."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    name = metadata.text("ggml.pre")
    if name is None:
        name = "default"
        warnings.warn(
            f"{metadata.path} does not say how its tokenizer splits text (tokenizer.ggml.pre): the file is from before"
            " May 2024 and texts may be tokenised wrongly; convert the model again",
            stacklevel=2,
        )
    if name not in PRE_TOKENIZERS:
        raise CheckpointError(
            f"{metadata.path}: the pre-tokenizer {name!r} (tokenizer.ggml.pre) is not supported; these are: "
            + ", ".join(sorted(PRE_TOKENIZERS))
        )
    family = PRE_TOKENIZERS[name]
    merges = [_split_merge(metadata, merge) for merge in metadata.required(metadata.texts, "ggml.merges")]
    with backend_errors(f"{metadata.path}: tokenizer.ggml.merges do not fit the tokens"):
        model = models.BPE(vocab=vocabulary.ids, merges=merges, ignore_merges=family.ignore_merges)
    backend = Backend(model)
    if family.nfc:
        backend.normalizer = normalizers.NFC()
    # The file's add_space_prefix belongs to SentencePiece; here it would put a space before every piece.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in family.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend, family.add_bos


def _split_merge(metadata: Metadata, merge: str) -> tuple[str, str]:
    left, separator, right = merge.partition(" ")
    if not (left and separator and right):
        raise CheckpointError(f"{metadata.path}: tokenizer.ggml.merges has {merge!r}, expected two tokens and a space")
    return left, right


def _sentencepiece_bpe(metadata: Metadata, vocabulary: Vocabulary, unknown_id: int | None) -> tokenizers.Tokenizer:
    """SentencePiece's BPE: no splitting before merging, spaces as U+2581, characters without a token as bytes."""
    from tokenizers import Regex, decoders, models, normalizers
    from tokenizers import Tokenizer as Backend

    scores = metadata.required(metadata.numbers, "ggml.scores")
    check_length(metadata, "ggml.scores", scores, vocabulary.tokens)
    has_all_bytes = all(f"<0x{byte:02X}>" in vocabulary.ids for byte in range(256))
    backend = Backend(
        models.BPE(
            vocab=vocabulary.ids,
            merges=_merges_from_scores(vocabulary, scores),
            unk_token=None if unknown_id is None else vocabulary.tokens[unknown_id],
            fuse_unk=True,
            byte_fallback=has_all_bytes,
        )
    )
    steps: list[normalizers.Normalizer] = []
    charsmap = _read_charsmap(metadata)
    if charsmap is not None:
        steps.append(normalizers.Precompiled(charsmap))
    if metadata.flag("ggml.remove_extra_whitespaces", False):
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    add_space_prefix = metadata.flag("ggml.add_space_prefix", True)
    if add_space_prefix:
        # Of every piece of text between special tokens, as llama.cpp and the original Llama 2 chat format do.
        steps.append(normalizers.Prepend(_SPACE))
    steps.append(normalizers.Replace(" ", _SPACE))
    backend.normalizer = normalizers.Sequence(steps)
    strip = [decoders.Strip(" ", 1, 0)] if add_space_prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return backend


def _read_charsmap(metadata: Metadata) -> bytes | None:
    """Unicode normalisation rules in SentencePiece's own form; an array of int8 or uint8."""
    values = metadata.integers("ggml.precompiled_charsmap")
    if values is None:
        return None
    charsmap = bytes(value & 0xFF for value in values)
    if (error := charsmap_error(charsmap)) is not None:
        raise CheckpointError(f"{metadata.path}: tokenizer.ggml.precompiled_charsmap is damaged: {error}")
    return charsmap


def _merges_from_scores(vocabulary: Vocabulary, scores: Sequence[float]) -> list[tuple[str, str]]:
    """BPE merges, best first, that make the choices SentencePiece makes from scores.

    SentencePiece joins the two neighbours whose joint token has the highest score; so every way to cut a token into
    two tokens is a merge of that token's rank. (transformers' `generate_merges` does the same.) Among the cuts of one
    token the one with the longest left part comes first, which reproduces the leftmost-first rule for runs of a
    repeated character such as indentation. Tokens that only special rules produce take no part.
    """
    mergeable = set(vocabulary.texts(TokenType.NORMAL, TokenType.UNUSED))
    by_rank = sorted(mergeable, key=lambda token: (-scores[vocabulary.ids[token]], vocabulary.ids[token]))
    return [
        (token[:cut], token[cut:])
        for token in by_rank
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in mergeable and token[cut:] in mergeable
    ]


def _register_added_tokens(backend: tokenizers.Tokenizer, vocabulary: Vocabulary, end_tokens: Sequence[str]) -> None:
    """Tokens found in a text before it is split: control tokens (special), and user-defined ones (plain text).

    Byte tokens are not among them: the six characters "<0x0A>" in a text are no newline.
    """
    from tokenizers import AddedToken

    special = {*vocabulary.texts(TokenType.CONTROL, TokenType.UNKNOWN), *end_tokens}
    added = special.union(vocabulary.texts(TokenType.USER_DEFINED))
    backend.add_tokens(
        [
            AddedToken(token, normalized=False, special=token in special)
            for token in sorted(added, key=vocabulary.ids.__getitem__)
        ]
    )


def _set_bos_and_eos(
    backend: tokenizers.Tokenizer,
    metadata: Metadata,
    vocabulary: Vocabulary,
    ids: dict[str, int | None],
    add_bos_default: bool,
) -> None:
    """Makes `encode` put BOS and EOS around a text where the file (or its family's default) says so."""
    from tokenizers import processors

    # The template names its tokens "bos" and "eos": a token's own text may be template syntax ("$A", "<s:1>").
    template, tokens = ["$A"], []
    for name, default in (("bos", add_bos_default), ("eos", False)):
        if not metadata.flag(f"ggml.add_{name}_token", default):
            continue
        token_id = ids[name]
        if token_id is None:
            raise CheckpointError(
                f"{metadata.path} adds a {name.upper()} token to every text (tokenizer.ggml.add_{name}_token), but does"
                f" not say which (tokenizer.ggml.{name}_token_id)"
            )
        template.insert(0 if name == "bos" else len(template), name)
        tokens.append({"id": name, "ids": [token_id], "tokens": [vocabulary.tokens[token_id]]})
    if tokens:
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=tokens)


def _read_chat_templates(metadata: Metadata) -> dict[str, str]:
    """Chat templates by name; the one without a name is the default."""
    templates = {}
    for name in metadata.texts("chat_templates") or ():
        templates[name] = metadata.required(metadata.text, f"chat_template.{name}")
    default = metadata.text("chat_template")
    return templates if default is None else {**templates, "default": default}
