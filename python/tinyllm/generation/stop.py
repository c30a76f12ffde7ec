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

    Special tokens are not shown, but their texts are part of the text that is searched: "<|im_end|>" is a stop string
    like any other, and so is one that goes on with ordinary text.

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
        self._hidden: list[tuple[int, int]] = []  # parts of `_held` that are not shown
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """True once a stop string has been found."""
        return self._stopped

    def push(self, text: str, hidden: str = "") -> tuple[str, bool]:
        """Takes the next piece of text, and after it `hidden`, the text of a special token that is not shown.

        Returns:
            (emit, stopped): the text that is now certain not to be part of a stop string, and whether a stop string
            was found. Text from the stop string on is dropped, and so is everything pushed after it.
        """
        if self._stopped:
            return "", True
        text = self._held + text + hidden
        if hidden and self._stops:
            self._hidden.append((len(text) - len(hidden), len(text)))
        elif hidden:
            text = text[: len(text) - len(hidden)]
        match_start = self._first_match(text)
        if match_start is not None:
            self._stopped = True
            return self._release(text, match_start, drop=True), True
        return self._release(text, len(text) - self._partial_length(text)), False

    def flush(self) -> str:
        """Ends the stream. Returns the text held back: no stop string can be completed any more."""
        return self._release(self._held, len(self._held))

    def _release(self, text: str, end: int, drop: bool = False) -> str:
        """What is shown of `text` up to `end`; the rest is held back, or dropped."""
        shown, position = [], 0
        for start, stop in self._hidden:
            shown.append(text[position : min(start, end)])
            position = min(stop, end)
        shown.append(text[position:end])
        self._held = "" if drop else text[end:]
        self._hidden = [(max(start - end, 0), stop - end) for start, stop in self._hidden if stop > end and not drop]
        return "".join(shown)

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
