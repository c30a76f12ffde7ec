"""Stop strings, matched on the text stream and therefore across token boundaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class StopMatcher:
    """Cuts a stream of text pieces before the first stop string.

    The match that is complete first wins, because generation has to end there; of two that are complete at the same
    character, the longer one (it starts first). The result therefore depends only on the text, not on how it is cut
    into pieces. Text that may still turn out to be the beginning of a stop string is held back, and nothing else.

    One matcher belongs to one stream; it is not shared between threads.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Begin a stream.

        Args:
            stops: the stop strings; none at all means that all text passes through.

        Raises:
            ValueError: a stop string is empty or not a string, or `stops` is a plain string.
        """
        if isinstance(stops, str):
            raise ValueError(f"stop must be a list of strings, got the string {stops!r}; write [{stops!r}]")
        for stop in stops:
            if not isinstance(stop, str):
                raise ValueError(f"stop strings must be str, got {stop!r} ({type(stop).__name__})")
            if not stop:
                raise ValueError("a stop string is empty: it would end every text before it begins; leave it out")
        self._stops = tuple(dict.fromkeys(stops))
        self._longest_partial = max((len(stop) for stop in self._stops), default=1) - 1
        self._held = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """True once a stop string has been found."""
        return self._stopped

    def push(self, text: str) -> tuple[str, bool]:
        """Takes the next piece of text.

        Returns:
            (emit, stopped): the text that is now certain not to be part of a stop string, and whether a stop string
            was found. Text from the stop string on is dropped, and so is everything pushed after it.
        """
        if self._stopped:
            return "", True
        text = self._held + text
        match_start = self._first_match(text)
        if match_start is not None:
            self._held = ""
            self._stopped = True
            return text[:match_start], True
        n_emit = len(text) - self._partial_length(text)
        self._held = text[n_emit:]
        return text[:n_emit], False

    def flush(self) -> str:
        """Ends the stream. Returns the text held back: no stop string can be completed any more."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> int | None:
        """Start of the stop string that ends first in `text` (ties: starts first); None without a match."""
        best_end, best_start = None, None
        for stop in self._stops:
            start = text.find(stop)
            if start < 0:
                continue
            end = start + len(stop)
            if best_end is None or (end, start) < (best_end, best_start):
                best_end, best_start = end, start
        return best_start

    def _partial_length(self, text: str) -> int:
        """Length of the longest suffix of `text` that is the beginning of a stop string."""
        for length in range(min(len(text), self._longest_partial), 0, -1):
            suffix = text[-length:]
            # A whole stop string cannot be the suffix here: `_first_match` would have found it.
            if any(stop.startswith(suffix) for stop in self._stops):
                return length
        return 0
