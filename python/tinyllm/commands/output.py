"""Writing generated text and its statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..memory.report import format_bytes
from .console import say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..generation.results import GenerationStats, StreamPiece


def write_stream(pieces: Iterable[StreamPiece]) -> tuple[str, GenerationStats | None]:
    """Print pieces as they come, end with a newline; returns the text and the statistics."""
    text = []
    stats = None
    try:
        for piece in pieces:
            print(piece.text, end="", flush=True)
            text.append(piece.text)
            stats = piece.stats or stats
    finally:
        print(flush=True)
    return "".join(text), stats


def print_stats(stats: GenerationStats | None) -> None:
    """One line on standard error, so that standard output holds the text only."""
    if stats is None:
        return
    prompt = f"{stats.prompt_tokens} prompt tokens at {stats.prefill_tps:.0f} tok/s"
    answer = f"{stats.generated_tokens} tokens at {stats.decode_tps:.1f} tok/s"
    memory = format_bytes(stats.peak_memory_bytes)
    say(f"[{prompt}, first token after {stats.ttft_ms:.0f} ms; {answer}; memory {memory}]")
