"""Text to token ids and back, and the chat format, as the checkpoint defines them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .backend_errors import backend_errors
from .chat_encoding import ControlTokens, unmark
from .detokenizer import Detokenizer, StreamDecoder
from .messages import check_messages

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

    def __repr__(self) -> str:
        templates = ", ".join(self.chat_templates) or "none"
        return f"<tinyllm.Tokenizer {self._origin}: {self.vocab_size} tokens, chat templates: {templates}>"

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
        with backend_errors(f"{self._origin}: a text of {len(text)} characters cannot be encoded"):
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

    def answer_decoder(self, prompt_ids: Iterable[int]) -> StreamDecoder:
        """A decoder for what a model writes after a prompt.

        Where the prompt has no text, only a BOS token for example, the answer is the beginning of a text.
        """
        special_ids = self._detokenizer.special_ids
        return self.stream_decoder(continues_text=any(token_id not in special_ids for token_id in prompt_ids))

    @property
    def chat_template(self) -> str | None:
        """The checkpoint's default chat template (Jinja); None when it has none."""
        return self.chat_templates.get("default")

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], /, add_generation_prompt: bool = True, **template_variables: Any
    ) -> str:
        """The conversation as the text the model was trained on, BOS included where the template writes it.

        Args:
            messages: dicts with "role" and "content"; content is a string or a list of {"type": "text", "text": ...}.
            add_generation_prompt: end with the opening of an assistant message.
            template_variables: for the template, for example tools=[...] or enable_thinking=False.

        Raises:
            ValueError: there is no template, the messages are malformed or refused by it, or it does not use one of
                the variables.
            CheckpointError: the template itself is wrong, or takes more time or memory than a chat template may.
        """
        return self._template_for(template_variables).render(messages, add_generation_prompt, **template_variables)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        add_generation_prompt: bool = True,
        *,
        parse_special: bool = False,
        **template_variables: Any,
    ) -> list[int]:
        """Token ids of a conversation: exactly the text the template writes, so that BOS is not added to its own.

        Args:
            messages: as in `apply_chat_template`.
            add_generation_prompt: likewise.
            template_variables: likewise.
            parse_special: let the texts of control tokens in the messages ("<|im_end|>") become those tokens. Without
                it they stay text, so that nobody who writes a message can end a turn or speak for another role; where
                the template reads such texts itself, or the tokenizer cannot be split at them, they are parsed anyway.

        Errors are those of `apply_chat_template`.
        """
        template = self._template_for(template_variables)
        plain = check_messages(messages)
        text = template.render_checked(plain, add_generation_prompt, **template_variables)
        if not parse_special and self._control_tokens.in_messages(plain):
            marked, marks = self._control_tokens.mark(plain, text)
            try:
                marked_text = template.render_checked(marked, add_generation_prompt, **template_variables)
            except (ValueError, CheckpointError):  # it accepts these messages for their control tokens only
                marked_text = ""
            if unmark(marked_text, marks) == text:
                with backend_errors(f"{self._origin}: the conversation cannot be encoded"):
                    ids = self._control_tokens.encode(marked_text, marks)
                if ids is not None:
                    return ids
        return self.encode(text, add_special_tokens=False)

    @cached_property
    def _control_tokens(self) -> ControlTokens:
        return ControlTokens(self._backend)

    def _template_for(self, variables: Mapping[str, Any]) -> ChatTemplate:
        name = "tool_use" if variables.get("tools") and "tool_use" in self.chat_templates else "default"
        return self._compiled_template(name)

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
