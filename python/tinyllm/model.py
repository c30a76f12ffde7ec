"""`Model`: from text to text. Made by `load` (loading.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from ._checks import INT32_MAX
from ._native.queue import FINISH_ERROR, FINISH_NONE, EventQueue
from .config import GenerationConfig, GenerationSettings, KVCacheConfig, ModelConfig
from .errors import ConfigError
from .generation.text_request import TextStream, generate_all
from .memory.report import MemoryReport, memory_report

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Unpack

    from ._native import engine as native
    from ._native.devices import Device
    from .checkpoints import Checkpoint
    from .generation.results import GenerationResult
    from .tokenization.detokenizer import StreamDecoder
    from .tokenization.tokenizer import Tokenizer

Prompt = str | Sequence[int]


class Model:
    """A loaded model. Made by `load`; also a context manager.

    Every method may be called from any thread; requests of several threads run together. Steps run on a thread of the
    library. Where the device lacks the memory for one, it is made again; if that fails too, the request that came last
    ends with OutOfMemoryError, and the others go on.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: ModelConfig,
        kv_cache: KVCacheConfig,
        device: Device,
        engine: native.NativeEngine,
    ) -> None:
        self.config = config
        self.kv_cache = kv_cache
        self.device = device.device
        self.generation_config = GenerationConfig(**checkpoint.generation_defaults)  # where a call gives no other
        self._checkpoint = checkpoint
        self._engine = engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer. CheckpointError if it has none, ClosedError once the model is closed."""
        return self._open_checkpoint().tokenizer

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end generation. ClosedError once the model is closed."""
        return self._open_checkpoint().eos_token_ids

    @overload
    def generate(  # type: ignore[overload-overlap]  # a str is a sequence of str as well: this one comes first
        self, prompt: Prompt, config: GenerationConfig | None = None, **settings: Unpack[GenerationSettings]
    ) -> GenerationResult: ...
    @overload
    def generate(
        self, prompt: Sequence[Prompt], config: GenerationConfig | None = None, **settings: Unpack[GenerationSettings]
    ) -> list[GenerationResult]: ...
    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        config: GenerationConfig | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> GenerationResult | list[GenerationResult]:
        """Generate until an end token, a stop string, max_new_tokens or the context's end.

        Args:
            prompt: a text, a list of token ids, or a list of either. A list of prompts gives a list of results; they
                run together, at most kv_cache.max_batch_size at a time.
            config: all settings at once; the default is the checkpoint's recommendation (`generation_config`).
            settings: single fields of GenerationConfig that replace those of `config`.

        Raises:
            ValueError: a setting is unknown or out of range, a prompt is empty or longer than the context.
        """
        prompts, is_list = _prompt_list(prompt)
        config = self._generation_config(config, settings)
        token_ids = [self._token_ids(one) for one in prompts]
        decoders = [self._decoder(config, ids) for ids in token_ids]
        results = generate_all(self._engine, token_ids, config, decoders, self._end_tokens(config))
        return results if is_list else results[0]

    def stream(
        self, prompt: Prompt, config: GenerationConfig | None = None, **settings: Unpack[GenerationSettings]
    ) -> TextStream:
        """Generate one answer piece by piece: an iterator of StreamPiece.

        Arguments and errors are those of `generate`; wrong arguments are raised by this call. The request runs
        from this call on. Closing the stream cancels it, and so does dropping it.
        """
        config = self._generation_config(config, settings)
        return self._stream(self._token_ids(prompt), config)

    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        config: GenerationConfig | None = None,
        *,
        stream: Literal[False] = False,
        template_variables: Mapping[str, Any] | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> GenerationResult: ...
    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        config: GenerationConfig | None = None,
        *,
        stream: Literal[True],
        template_variables: Mapping[str, Any] | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> TextStream: ...
    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        config: GenerationConfig | None = None,
        *,
        stream: bool,
        template_variables: Mapping[str, Any] | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> GenerationResult | TextStream: ...
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        config: GenerationConfig | None = None,
        *,
        stream: bool = False,
        template_variables: Mapping[str, Any] | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> GenerationResult | TextStream:
        """Answer a conversation, written with the checkpoint's own chat template.

        Args:
            messages: dicts with "role" and "content" (a string or a list of text parts), the last one usually of the
                user. Texts of control tokens in them stay text where possible; see `Tokenizer.encode_chat`.
            config: as in `generate`.
            settings: as in `generate`.
            stream: return a stream of pieces, as `stream` does, instead of the result.
            template_variables: for the template, for example {"enable_thinking": False}.
        """
        config = self._generation_config(config, settings)
        if not isinstance(template_variables or {}, Mapping):
            raise ConfigError(f"template_variables must be a mapping from names to values; got {template_variables!r}")
        token_ids = self.tokenizer.encode_chat(messages, **(template_variables or {}))
        if stream:
            return self._stream(token_ids, config)
        return self.generate(token_ids, config)

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """Logits of every position: float32 [n, vocab_size]; row i scores the token after token_ids[i]."""
        ids = _checked_ids(token_ids)
        out = np.empty((len(ids), self.config.vocab_size), dtype=np.float32)
        queue = EventQueue(self._engine, out)
        try:
            queue.submit([ids], GenerationConfig(), ())
            last = queue.take()[-1]
            while last.finish_reason == FINISH_NONE:
                last = queue.take()[-1]
            if last.finish_reason == FINISH_ERROR:
                raise queue.error(last)
        finally:
            queue.close()
        return out

    def memory(self) -> MemoryReport:
        """Planned and actual bytes by component, the peak, and the device's free and total bytes."""
        return memory_report(self._engine)

    def close(self) -> None:
        """Give all memory back. The model cannot be used afterwards; closing again does nothing."""
        self._engine.close()
        self._checkpoint.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed, " if self._engine.closed else ""
        return f"<tinyllm.Model {self._checkpoint.path.name}: {state}{self.config.architecture}, on {self.device}>"

    def _generation_config(self, config: GenerationConfig | None, settings: GenerationSettings) -> GenerationConfig:
        if config is None:
            config = self.generation_config
        if not isinstance(config, GenerationConfig):
            raise ConfigError(f"config must be a GenerationConfig; got {config!r}")
        if not settings:
            return config
        # Not dataclasses.replace: the constructor names an unknown field.
        merged = {field.name: getattr(config, field.name) for field in fields(config)}
        return GenerationConfig(**{**merged, **settings})

    def _token_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        return _checked_ids(prompt)

    def _stream(self, token_ids: list[int], config: GenerationConfig) -> TextStream:
        return TextStream(self._engine, token_ids, config, self._decoder(config, token_ids), self._end_tokens(config))

    def _end_tokens(self, config: GenerationConfig) -> tuple[int, ...]:
        return () if config.ignore_eos else self.eos_token_ids

    def _decoder(self, config: GenerationConfig, prompt: Sequence[int]) -> StreamDecoder | None:
        """None where there is no tokenizer: a model without one still turns token ids into token ids.

        CheckpointError where there is one that is not usable, and for stop strings, which need one.
        """
        if not (self._open_checkpoint().has_tokenizer or config.stop):
            return None
        return self.tokenizer.answer_decoder(prompt)

    def _open_checkpoint(self) -> Checkpoint:
        """The checkpoint, whose tokenizer is made when it is first asked for. ClosedError once the model is closed."""
        self._engine.require_open()
        return self._checkpoint


def _checked_ids(token_ids: Any) -> list[int]:
    """Token ids as plain ints; ValueError or TypeError for anything else."""
    array = np.asarray(token_ids)
    if array.size == 0:
        raise ConfigError("the prompt has no tokens; give at least one")
    ids: list[int] = array.tolist()
    # By value and not by the array's type, which is `object` where an integer has more than 64 bits.
    if array.ndim != 1 or any(type(token_id) is not int for token_id in ids):
        raise TypeError(f"token ids must be a flat list of integers; got {token_ids!r}")
    for position, token_id in enumerate(ids):
        if abs(token_id) > INT32_MAX:  # the engine knows the vocabulary, but sees 32 bits
            raise ConfigError(f"token id {token_id} at position {position} is outside every vocabulary")
    return ids


def _prompt_list(prompt: Any) -> tuple[list[Any], bool]:
    """(prompts, whether the caller gave a list of prompts)."""
    if isinstance(prompt, str) or (isinstance(prompt, np.ndarray) and prompt.ndim == 1):
        return [prompt], False
    if not isinstance(prompt, (Sequence, np.ndarray)):
        raise TypeError(f"prompt must be a text, a list of token ids, or a list of those; got {prompt!r}")
    # An empty list is an empty list of prompts; a list of integers is one prompt.
    if len(prompt) > 0 and not any(isinstance(one, (str, Sequence, np.ndarray)) for one in prompt):
        return [prompt], False
    return list(prompt), True
