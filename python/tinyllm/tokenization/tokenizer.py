"""Text to token ids and back, and the chat format, as the checkpoint defines them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from .detokenizer import Detokenizer, StreamDecoder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import tokenizers

    from .chat_template import ChatTemplate


class Tokenizer:
    """The tokenizer of one checkpoint.

    Immutable once made; all methods may be called from several threads at once.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        origin: str | Path,
        special_tokens: Mapping[str, str] | None = None,
        eos_token_ids: Sequence[int] = (),
        chat_templates: Mapping[str, str] | None = None,
    ) -> None:
        """Made by `load_huggingface_tokenizer` (huggingface.py) or `load_gguf_tokenizer` (gguf/checkpoint.py).

        Args:
            backend: vocabulary, splitting and merging; what it does to a text is what `encode` does.
            origin: the file it comes from, for messages.
            special_tokens: their texts by name ("bos_token", "eos_token", ...), for chat templates.
            eos_token_ids: tokens that end a generation, the main one first.
            chat_templates: Jinja texts by name; "default" is the one used unless tools are given and there is a
                "tool_use".
        """
        self._backend = backend
        self._origin = str(origin)
        self.special_tokens = dict(special_tokens or {})
        self.eos_token_ids = tuple(eos_token_ids)
        self.chat_templates = dict(chat_templates or {})
        self._detokenizer = Detokenizer(backend, self._origin)
        self._compiled_templates: dict[str, ChatTemplate] = {}

    @cached_property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included. A model may have more rows, to pad its embedding table."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a sequence; None when the checkpoint names none."""
        bos_token = self.special_tokens.get("bos_token")
        return None if bos_token is None else self._backend.token_to_id(bos_token)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. Texts of special tokens inside it ("<|im_end|>") become those tokens.

        Args:
            text: any text without lone surrogates.
            add_special_tokens: add what the checkpoint puts around a text, usually the BOS token. A text that already
                begins with the BOS token gets no second one.

        Raises:
            TypeError: `text` is not a str.
            ValueError: `text` is not valid Unicode.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text has the lone surrogate {text[error.start]!r} at character {error.start}; decode its source as"
                " UTF-8 with errors='replace'"
            ) from error
        ids = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        if add_special_tokens and len(ids) >= 2 and ids[0] == ids[1] == self.bos_token_id:
            text_ids = self._backend.encode(text, add_special_tokens=False).ids
            if ids[1 : 1 + len(text_ids)] == text_ids:
                return ids[1:]
        return ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; bytes that are not UTF-8 become U+FFFD. Ids past the vocabulary have no text.

        Raises:
            ValueError: an id is negative or not a whole number.
        """
        decoder = self.stream_decoder(skip_special_tokens)
        pieces = [decoder.push(token_id) for token_id in ids]
        return "".join(pieces) + decoder.flush()

    def stream_decoder(self, skip_special_tokens: bool = True, continues_text: bool = False) -> StreamDecoder:
        """A decoder for one growing sequence; see `StreamDecoder` for the arguments."""
        return StreamDecoder(self._detokenizer, skip_special_tokens, continues_text)

    @property
    def chat_template(self) -> str | None:
        """The checkpoint's default chat template (Jinja); None when it has none."""
        return self.chat_templates.get("default")

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **template_variables: Any
    ) -> str:
        """The conversation as the text the model was trained on, BOS included where the template writes it.

        Args:
            messages: dicts with "role" and "content" strings.
            add_generation_prompt: end with the opening of an assistant message.
            template_variables: for the template, for example tools=[...] or enable_thinking=False.

        Raises:
            ValueError: there is no template, the messages are malformed or refused by it, or it does not use one of
                the variables.
            CheckpointError: the template itself is wrong.
        """
        name = "tool_use" if template_variables.get("tools") and "tool_use" in self.chat_templates else "default"
        return self._compiled_template(name).render(messages, add_generation_prompt, **template_variables)

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **template_variables: Any
    ) -> list[int]:
        """Token ids of a conversation: exactly the text the template writes, so that BOS is not added to its own.

        Arguments and errors as in `apply_chat_template`.
        """
        text = self.apply_chat_template(messages, add_generation_prompt, **template_variables)
        return self.encode(text, add_special_tokens=False)

    def _compiled_template(self, name: str) -> ChatTemplate:
        from .chat_template import ChatTemplate

        template = self._compiled_templates.get(name)
        if template is None:
            if name not in self.chat_templates:
                others = f"; it has only the templates {sorted(self.chat_templates)}" if self.chat_templates else ""
                raise ValueError(
                    f"{self._origin} has no chat template{others}. Write the prompt yourself and use generate() instead"
                )
            template = ChatTemplate(
                self.chat_templates[name], f"{self._origin}: chat template {name!r}", self.special_tokens
            )
            # Two threads may both compile it; either result serves.
            self._compiled_templates[name] = template
        return template
