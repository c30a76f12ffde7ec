"""Small tokenizers, and the checkpoint files that hold them, for the tokenizer tests."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import gguf
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from tinyllm.tokenization.gguf import load_gguf_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tinyllm.tokenization.tokenizer import Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps.",
    "    for index in range(100):\n        print(index, end='\\n')\n",
    "Übermut tut selten gut; café, naïve, façade. Grüße aus Köln!",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "人工智能模型。你好\uff0c世界\uff01 こんにちは世界。 안녕하세요",
    "a aa aaa aaaa aaaaa      spaces        and\t\ttabs\r\n\r\n",
]

# Texts on which tokenizers commonly differ: white space, digits, contractions, scripts, emoji with joiners, controls.
TEXTS = [
    "",
    " ",
    "     ",
    "\n",
    "\n\n\n  \n",
    "Hello world",
    " Hello  world ",
    "don't I'll we'RE it's'",
    "123 4567  89 1.5e-3 0x1F \uff12\uff13 ½ ①",
    "def f(x):\n\treturn x**2  # comment\n\n\n    y = f(1)\n",
    "CamelCaseHTTPServer snake_case kebab-case",
    "Zażółć gęślą jaźń; Ελληνικά; עברית; العربية; हिन्दी; ไทย",
    "中文、日本語の文章。한국어 문장",
    "🙂👍🏽👩‍👩‍👧‍👦🇩🇪 e\u0301 \u200b\ufeff",
    "x\u00a0y\u2003z\u3000w",
    "a\r\nb\rc\x00d\x7f",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<s>text</s><unk><0x0A>",
]


@lru_cache(maxsize=1)
def byte_level_backend() -> Backend:
    """A byte-level BPE tokenizer with control tokens <s> and </s> and the user-defined token <think>."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens(["<think>"])
    return backend


def sentencepiece_like_backend(prefix: bool = True) -> Backend:
    """A BPE tokenizer with byte fallback, written the way Llama 2's tokenizer.json is."""
    words = ["\u2581", "a", "b", "ab", "\u2581a", "\u2581ab", "é", "\u2581\u2581"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    merges = [("a", "b"), ("\u2581", "a"), ("\u2581", "ab"), ("\u2581", "\u2581")]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    backend = Backend(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("\u2581")] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.add_tokens(["<think>"])
    return backend


def gguf_tokenizer(path: Path, fields: Mapping[str, Any]) -> Tokenizer:
    """Writes a GGUF file with these `tokenizer.*` fields (and nothing else) to `path`, and reads its tokenizer.

    Values may be str, bool, int, or lists of str, float or int.
    """
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in fields.items():
        if isinstance(value, bool):
            writer.add_bool(f"tokenizer.{key}", value)
        elif isinstance(value, int):
            writer.add_uint32(f"tokenizer.{key}", value)
        elif isinstance(value, str):
            writer.add_string(f"tokenizer.{key}", value)
        else:
            writer.add_array(f"tokenizer.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return load_gguf_tokenizer(gguf.GGUFReader(path), path)


def byte_level_fields(**changes: Any) -> dict[str, Any]:
    """GGUF fields of `byte_level_backend`; `changes` replace or, being None, remove `tokenizer.ggml.*` fields."""
    state = byte_level_backend()
    tokens = [state.id_to_token(token_id) for token_id in range(state.get_vocab_size())]
    types = {"<s>": 3, "</s>": 3, "<think>": 4}
    fields = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": [types.get(token, 1) for token in tokens],
        "merges": bpe_merges(state),
        "bos_token_id": state.token_to_id("<s>"),
        "eos_token_id": state.token_to_id("</s>"),
    }
    return _as_fields({**fields, **changes})


def bpe_merges(backend: Backend) -> list[str]:
    """The merges of a BPE model, best first, each as "left right"."""
    merges: Sequence[Any] = json.loads(backend.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def sentencepiece_fields(**changes: Any) -> dict[str, Any]:
    """GGUF fields of a small SentencePiece-style vocabulary; `changes` as in `byte_level_fields`."""
    control = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    # Scores as SentencePiece gives them: minus the rank for merged tokens, single characters last.
    merged = ["ab", "\u2581ab", "\u2581\u2581", "aab", "aa"]
    single = ["\u2581", "a", "b", "é"]
    tokens = [*control, *byte_tokens, *merged, *single, "<think>"]
    types = [2, 3, 3] + [6] * 256 + [1] * (len(merged) + len(single)) + [4]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(merged) + len(single))] + [0.0]
    fields = {"model": "llama", "tokens": tokens, "token_type": types, "scores": scores}
    return _as_fields({**fields, **changes})


def _as_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"ggml.{name}": value for name, value in values.items() if value is not None}
