"""What generation returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .._native.queue import Event


@dataclass(frozen=True)
class GenerationStats:
    """Counts and speed of one request. Times in milliseconds, from the moment it was submitted."""

    prompt_tokens: int
    generated_tokens: int
    ttft_ms: float  # time to first token: waiting, prefill and the first sample; 0 if none came
    tpot_ms: float  # time per output token after the first; 0 with fewer than two tokens
    prefill_tps: float  # prompt tokens a second, waiting time excluded
    decode_tps: float  # output tokens a second after the first
    peak_memory_bytes: int  # of the model's tracked memory, so far

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @staticmethod
    def from_event(event: Event, peak_memory_bytes: int) -> GenerationStats:
        """From the last event of a request."""
        ttft, generated = event.ttft_ms, event.generated_tokens
        prefill_ms = ttft - event.queued_ms
        decode_ms = event.total_ms - ttft
        gaps = generated - 1
        return GenerationStats(
            prompt_tokens=event.prompt_tokens,
            generated_tokens=generated,
            ttft_ms=ttft,
            tpot_ms=decode_ms / gaps if gaps > 0 else 0.0,
            prefill_tps=1000.0 * event.prompt_tokens / prefill_ms if prefill_ms > 0 else 0.0,
            decode_tps=1000.0 * gaps / decode_ms if gaps > 0 and decode_ms > 0 else 0.0,
            peak_memory_bytes=peak_memory_bytes,
        )


@dataclass(frozen=True, repr=False)
class GenerationResult:
    """One finished request."""

    text: str  # without the end token and without the stop string
    token_ids: list[int]  # all tokens that were generated, an end token included
    finish_reason: str  # "stop", "length" or "cancelled"
    stats: GenerationStats
    logprobs: list[float] | None = None  # of each token, natural log, from the raw logits; where asked for

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __repr__(self) -> str:
        text = repr(self.text if len(self.text) <= 60 else f"{self.text[:60]}...")
        speed = f"{self.stats.decode_tps:.1f} tok/s"
        return f"<tinyllm.GenerationResult {text}: {len(self.token_ids)} tokens, {self.finish_reason}, {speed}>"


@dataclass(frozen=True)
class StreamPiece:
    """One token of a stream.

    Text that may still change (an unfinished UTF-8 sequence, the beginning of a stop string) is held back, so `text`
    may be empty; the texts of all pieces joined are the text of the result.
    """

    text: str
    token_id: int | None  # None only if the request was cancelled before its next token
    logprob: float | None = None
    finish_reason: str | None = None  # on the last piece
    stats: GenerationStats | None = None  # on the last piece

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
