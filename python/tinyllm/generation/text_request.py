"""Text generations: tokens from the engine, turned into text that is safe to show."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .._native.queue import FINISH_CANCELLED, FINISH_ERROR, FINISH_LENGTH, FINISH_NONE, FINISH_STOP, Event, EventQueue
from .results import GenerationResult, GenerationStats, StreamPiece
from .stop import StopMatcher

if TYPE_CHECKING:
    from .._native.engine import NativeEngine
    from ..config import GenerationConfig
    from ..tokenization.detokenizer import StreamDecoder

_REASONS = {FINISH_NONE: None, FINISH_STOP: "stop", FINISH_LENGTH: "length", FINISH_CANCELLED: "cancelled"}


class TextRequest:
    """The text side of one request: its events become pieces. For one thread."""

    def __init__(self, engine: NativeEngine, config: GenerationConfig, decoder: StreamDecoder | None) -> None:
        """`decoder` None: token ids only, all texts are empty."""
        self._engine = engine
        self._config = config
        self._decoder = decoder
        self._matcher = StopMatcher(config.stop)
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []
        self._finish_reason: str | None = None
        self._stats: GenerationStats | None = None

    @property
    def ended(self) -> bool:
        """Whether its last event has come, or a stop string."""
        return self._finish_reason is not None

    def piece(self, queue: EventQueue, event: Event) -> StreamPiece:
        """The piece of the next event. The last one has a finish_reason and the statistics.

        Where a stop string ends the request its tokens to come are cancelled. Raises the error that the request ended
        with.
        """
        text = self._advance(queue, event)
        return StreamPiece(
            text,
            None if event.token_id < 0 else event.token_id,
            None if math.isnan(event.logprob) else event.logprob,
            self._finish_reason,
            self._stats,
        )

    def add(self, queue: EventQueue, event: Event) -> None:
        """As `piece`, but keeps what it has for `result`."""
        self._texts.append(self._advance(queue, event))
        if event.token_id >= 0:
            self._token_ids.append(event.token_id)
            self._logprobs.append(event.logprob)

    def _advance(self, queue: EventQueue, event: Event) -> str:
        """Text that is certain now."""
        if event.finish_reason == FINISH_ERROR:
            self._finish_reason = "error"
            raise queue.error(event)
        reason = _REASONS[event.finish_reason]
        text, hidden = "", ""
        if self._decoder is not None:
            if event.token_id >= 0:
                text = "" if event.finish_reason == FINISH_STOP else self._decoder.push(event.token_id)
                hidden = self._decoder.skipped_text(event.token_id)
            if reason is not None:
                text += self._decoder.flush()
        text, stopped = self._matcher.push(text, hidden)
        if stopped:
            # Only this process knows of stop strings: the engine would go on.
            if reason is None:
                queue.cancel(event.request_id)
            reason = "stop"
        elif reason is not None:
            text += self._matcher.flush()
        if reason is not None:
            self._finish_reason = reason
            self._stats = GenerationStats.from_event(event, self._peak_memory())
        return text

    def result(self) -> GenerationResult:
        """Everything that was added, once it has ended."""
        assert self._finish_reason is not None
        assert self._stats is not None
        return GenerationResult(
            text="".join(self._texts),
            token_ids=self._token_ids,
            finish_reason=self._finish_reason,
            stats=self._stats,
            logprobs=self._logprobs if self._config.logprobs else None,
        )

    def _peak_memory(self) -> int:
        return next(int(row.peak_bytes) for row in self._engine.memory() if row.component == b"total")


def generate_all(
    engine: NativeEngine,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    decoders: Sequence[StreamDecoder | None],
    end_tokens: Sequence[int],
) -> list[GenerationResult]:
    """The results of prompts that run together. An error of one ends all."""
    if not prompts:
        return []
    requests = [TextRequest(engine, config, decoder) for decoder in decoders]
    queue = EventQueue(engine)
    try:
        first = queue.submit(prompts, config, end_tokens)
        running = len(requests)
        while running:
            for event in queue.take():
                request = requests[event.request_id - first]
                if request.ended:  # by a stop string; tokens from before its cancellation still come
                    continue
                request.add(queue, event)
                running -= request.ended
    finally:
        queue.close()
    return [request.result() for request in requests]


class TextStream(Iterator[StreamPiece]):
    """The pieces of one answer, each as soon as it is there. Made by `Model.stream` and `Model.chat`.

    The request runs from the beginning. It is cancelled when the stream is closed, ends with an error or is collected,
    whether or not anything was read.
    """

    def __init__(
        self,
        engine: NativeEngine,
        prompt: Sequence[int],
        config: GenerationConfig,
        decoder: StreamDecoder | None,
        end_tokens: Sequence[int],
    ) -> None:
        self._engine = engine
        self._request = TextRequest(engine, config, decoder)
        self._events: deque[Event] = deque()
        self._ended = False
        self._queue = EventQueue(engine)
        self._queue.submit([prompt], config, end_tokens)

    def __next__(self) -> StreamPiece:
        if self._ended:
            raise StopIteration
        try:
            self._engine.require_open()  # whether or not events are at hand already
            if not self._events:
                self._events.extend(self._queue.take())
            piece = self._request.piece(self._queue, self._events.popleft())
            if self._request.ended:
                self.close()  # where a stop string ended it, the engine has one more step of it
        except BaseException:
            self.close()
            raise
        return piece

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<tinyllm.TextStream, {'ended' if self._ended else 'running'}>"

    def close(self) -> None:
        """Cancel the request and end the iteration. Closing twice is allowed."""
        self._ended = True
        self._queue.close()
