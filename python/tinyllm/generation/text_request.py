"""One text generation: tokens from the engine, turned into text that is safe to show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .._native.engine import NativeEngine
from ..config import GenerationConfig
from ..tokenization.detokenizer import StreamDecoder
from .results import GenerationResult, GenerationStats, StreamPiece
from .scheduler import Event, Scheduler
from .stop import StopMatcher


class TextRequest:
    """Submits a prompt and turns its events into pieces. `pieces` or `result` is called once, by one thread."""

    def __init__(
        self,
        scheduler: Scheduler,
        engine: NativeEngine,
        token_ids: list[int],
        config: GenerationConfig,
        decoder: StreamDecoder | None,
        end_tokens: Sequence[int],
    ) -> None:
        self._scheduler = scheduler
        self._engine = engine
        self._config = config
        self._end_tokens = () if config.ignore_eos else tuple(end_tokens)
        self._decoder = decoder  # None: token ids only, all texts are empty
        self._matcher = StopMatcher(config.stop)
        self.id = scheduler.submit(token_ids, config, self._end_tokens)

    def pieces(self) -> Iterator[StreamPiece]:
        """One piece a token; the last one has a finish_reason and the statistics. An error ends the request."""
        try:
            while True:
                for event in self._scheduler.events(self.id):
                    piece = self._piece(event)
                    yield piece
                    if piece.finish_reason is not None:
                        return
        except (Exception, KeyboardInterrupt):  # not GeneratorExit: see TextStream
            self.cancel()
            raise

    def result(self) -> GenerationResult:
        """Waits for the end and joins all pieces."""
        pieces = list(self.pieces())
        tokens = [piece for piece in pieces if piece.token_id is not None]
        return GenerationResult(
            text="".join(piece.text for piece in pieces),
            token_ids=[piece.token_id for piece in tokens],
            finish_reason=pieces[-1].finish_reason,
            stats=pieces[-1].stats,
            logprobs=[piece.logprob for piece in tokens] if self._config.logprobs else None,
        )

    def cancel(self) -> None:
        """End the request, if it has not ended, and wait until the engine has let go of it."""
        self._scheduler.cancel([self.id])

    def abandon(self) -> None:
        """End the request, if it has not ended, without waiting: see `Scheduler.abandon`."""
        self._scheduler.abandon(self.id)

    def _piece(self, event: Event) -> StreamPiece:
        token_id, reason = event["token_id"], event["finish_reason"]
        is_end_token = reason == "stop"
        text = "" if token_id is None or is_end_token or self._decoder is None else self._decoder.push(token_id)
        if reason is not None and self._decoder is not None:
            text += self._decoder.flush()
        text, stopped = self._matcher.push(text)
        if stopped:
            # Only this process knows of stop strings: the engine would go on.
            self.cancel()
            reason = "stop"
        elif reason is not None:
            text += self._matcher.flush()
        stats = None if reason is None else GenerationStats.from_event(event, self._peak_memory())
        return StreamPiece(text, token_id, event["logprob"], reason, stats)

    def _peak_memory(self) -> int:
        return next(row.peak_bytes for row in self._engine.memory() if row.component == b"total")


class TextStream(Iterator[StreamPiece]):
    """The pieces of one answer, each as soon as it is there. Made by `Model.stream` and `Model.chat`.

    The request runs from the beginning. It is cancelled when the stream is closed, ends with an error or is collected,
    whether or not anything was read.
    """

    # Not a generator: one that was never started runs no cleanup, and one that is collected must not wait in it.
    def __init__(self, request: TextRequest) -> None:
        self._request = request
        self._pieces = request.pieces()

    def __next__(self) -> StreamPiece:
        return next(self._pieces)

    def close(self) -> None:
        """Cancel the request and end the iteration. Closing twice is allowed; not while another thread reads."""
        self._pieces.close()
        self._request.cancel()

    def __del__(self) -> None:
        self._request.abandon()
