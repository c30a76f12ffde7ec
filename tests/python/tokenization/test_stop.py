"""StopMatcher against str.find on the whole text, for any way of cutting the text into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm.generation.stop import StopMatcher

# Three letters make overlaps, repeats and near misses frequent.
LETTERS = "abc"
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=4)
PIECES = st.lists(st.text(LETTERS, max_size=5), max_size=12)


def cut_at_first_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """Reference: the text before the stop string that is complete first, and whether there is one."""
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return (text[: min(found)[1]], True) if found else (text, False)


@given(stops=STOPS, pieces=PIECES)
def test_any_cut_into_pieces_gives_what_str_find_gives(stops: list[str], pieces: list[str]) -> None:
    matcher = StopMatcher(stops)
    emitted = ""
    for n_pieces, piece in enumerate(pieces, start=1):
        text, stopped = matcher.push(piece)
        emitted += text
        seen = "".join(pieces[:n_pieces])
        assert stopped == matcher.stopped == any(stop in seen for stop in stops)
        if not stopped:
            held = seen[len(emitted) :]
            assert seen.startswith(emitted)
            # Held text is the beginning of a stop string, and no longer such end of the text exists.
            assert not held or any(stop.startswith(held) for stop in stops)
            longer = [seen[start:] for start in range(len(emitted))]
            assert not any(stop.startswith(end) for stop in stops for end in longer)
    emitted += matcher.flush()
    assert (emitted, matcher.stopped) == cut_at_first_stop("".join(pieces), stops)


def test_match_across_pieces() -> None:
    matcher = StopMatcher(["\n\nUser:"])
    assert matcher.push("Hello\n") == ("Hello", False)
    assert matcher.push("\nUs") == ("", False)
    assert matcher.push("er: more") == ("", True)
    assert matcher.push("ignored") == ("", True)
    assert matcher.flush() == ""


def test_texts_of_special_tokens_are_searched_but_not_shown() -> None:
    matcher = StopMatcher(["<|im_end|>"])
    assert matcher.push("a", "<|im_start|>") == ("a", False)
    assert matcher.push("b", "<|im_end|>") == ("b", True)
    matcher = StopMatcher(["x<|end|>\ny"])
    assert matcher.push("ax", "<|end|>") == ("a", False)
    assert matcher.push("\nz") == ("x\nz", False)
    assert matcher.push("x", "<|end|>") == ("", False)
    assert matcher.push("\ny") == ("", True)
    matcher = StopMatcher(["x<|end|>!"])
    assert matcher.push("x", "<|end|>") == ("", False)
    assert matcher.flush() == "x"
    assert StopMatcher(()).push("a", "<|end|>") == ("a", False)


@given(stops=STOPS, pieces=st.lists(st.tuples(st.text(LETTERS, max_size=3), st.text(LETTERS, max_size=3)), max_size=8))
def test_hidden_texts_change_only_what_is_shown(stops: list[str], pieces: list[tuple[str, str]]) -> None:
    matcher = StopMatcher(stops)
    emitted = "".join(matcher.push(*piece)[0] for piece in pieces) + matcher.flush()
    kept, stopped = cut_at_first_stop("".join(text + hidden for text, hidden in pieces), stops)
    assert matcher.stopped == stopped
    shown, position = "", 0
    for text, hidden in pieces:
        shown += text[: max(len(kept) - position, 0)]
        position += len(text) + len(hidden)
    assert emitted == shown


def test_false_start_is_released() -> None:
    matcher = StopMatcher(["###"])
    assert matcher.push("a##") == ("a", False)
    assert matcher.push("b") == ("##b", False)
    assert matcher.push("#") == ("", False)
    assert matcher.flush() == "#"
    assert not matcher.stopped


def test_the_match_complete_first_wins_whatever_the_pieces() -> None:
    for pieces in (["xabcd"], ["xab", "cd"], list("xabcd")):
        matcher = StopMatcher(["abcd", "bc"])
        assert "".join(matcher.push(piece)[0] for piece in pieces) == "xa"
        assert matcher.stopped


def test_no_stop_strings_pass_everything_at_once() -> None:
    matcher = StopMatcher(())
    assert matcher.push("text") == ("text", False)
    assert matcher.flush() == ""


@pytest.mark.parametrize(
    ("stops", "message"),
    [([""], "empty"), (["ok", ""], "empty"), ("text", r"list of strings, got the string 'text'"), ([3], "3 .*int")],
)
def test_wrong_stops_are_named(stops: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StopMatcher(stops)  # type: ignore[arg-type]
