"""One text generation: tokens from the engine, turned into text that is safe to show."""

from __future__ import annotations

from collections.abc import Iterator

from ._native import NativeEngine
from .checkpoints import Checkpoint
from .config import GenerationConfig
from .errors import CheckpointError
from .results import GenerationResult, GenerationStats, StreamPiece
from .scheduler import Event, Scheduler
from .stop import StopMatcher


class TextRequest:
    """Submits a prompt and turns its events into pieces. `pieces` or `result` is called once, by one thread."""

    def __init__(
        self,
        scheduler: Scheduler,
        engine: NativeEngine,
        checkpoint: Checkpoint,
        token_ids: list[int],
        config: GenerationConfig,
    ) -> None:
        self._scheduler = scheduler
        self._engine = engine
        self._config = config
        self._end_tokens = () if config.ignore_eos else checkpoint.eos_token_ids
        # Without a tokenizer a model still turns token ids into token ids.
        self._decoder = None
        try:
            self._decoder = checkpoint.tokenizer.stream_decoder(continues_text=True)
        except CheckpointError:
            if config.stop:
                raise
        self._matcher = StopMatcher(config.stop)
        self.id = scheduler.submit(token_ids, config, self._end_tokens)

    def pieces(self) -> Iterator[StreamPiece]:
        """One piece a token; the last one has a finish_reason and the statistics."""
        while True:
            for event in self._scheduler.events(self.id):
                piece = self._piece(event)
                yield piece
                if piece.finish_reason is not None:
                    return

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

    def _piece(self, event: Event) -> StreamPiece:
        token_id, reason = event["token_id"], event["finish_reason"]
        is_end_token = reason == "stop"
        text = "" if token_id is None or is_end_token or self._decoder is None else self._decoder.push(token_id)
        if reason is not None and self._decoder is not None:
            text += self._decoder.flush()
        text, stopped = self._matcher.push(text)
        if stopped:
            # Only this process knows of stop strings: the engine would go on.
            self._scheduler.cancel([self.id])
            reason = "stop"
        elif reason is not None:
            text += self._matcher.flush()
        stats = None if reason is None else GenerationStats.from_event(event, self._peak_memory())
        return StreamPiece(text, token_id, event["logprob"], reason, stats)

    def _peak_memory(self) -> int:
        return next(row.peak_bytes for row in self._engine.memory() if row.component == b"total")
