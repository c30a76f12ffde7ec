"""A byte-level BPE tokenizer small enough for a test file: 256 bytes, a few merges, four special tokens."""

from __future__ import annotations

MERGES = (
    ("t", "h"),
    ("h", "e"),
    ("th", "e"),
    ("i", "n"),
    ("e", "r"),
    ("a", "n"),
    ("o", "n"),
    ("l", "l"),
    ("he", "ll"),
    ("hell", "o"),
    ("in", "g"),
    ("an", "d"),
    ("Ġ", "the"),
    ("Ġ", "a"),
    ("Ġ", "w"),
    ("o", "r"),
)
SPECIAL_TOKENS = ("<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>")
BOS_TOKEN, EOS_TOKEN = "<|begin|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _byte_characters() -> list[str]:
    """The characters that stand for the bytes 0 to 255 in GPT-2's byte-level vocabulary.

    Printable Latin-1 characters stand for themselves, the others for characters from U+0100 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256)]


TOKENS = (*_byte_characters(), *(left + right for left, right in MERGES), *SPECIAL_TOKENS)
VOCAB_SIZE = len(TOKENS)


def save_tokenizer(directory: str, template_file: str) -> None:
    """Write tokenizer.json and tokenizer_config.json into `directory`.

    template_file: "jinja" puts the chat template into chat_template.jinja, "json" into tokenizer_config.json, which
    are the places that newer and older checkpoints use.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ordinary = TOKENS[: -len(SPECIAL_TOKENS)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(ordinary)}, merges=list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS_TOKEN, eos_token=EOS_TOKEN)
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory, save_jinja_files=template_file == "jinja")
