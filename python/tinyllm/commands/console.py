"""Standard input, output and errors, as a command finds them: closed, full, or unable to show every character."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from ..errors import ConfigError, TinyllmError


class OutputError(TinyllmError):
    """Standard output cannot be written."""


def prepare() -> None:
    """Make the standard files safe to use. OutputError if there is no standard output.

    A closed one gets its number taken by the null device, so that no file of a model is opened as number 1 or 2 and
    written to. Characters that a terminal cannot show are shown as question marks.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:  # takes the lowest free number
        pass
    os.close(number)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # as long as the process
    warnings.showwarning = _show_warning
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    if sys.stdin is not None and hasattr(sys.stdin, "reconfigure") and _codec(sys.stdin) == "ascii":
        sys.stdin.reconfigure(encoding="utf-8")  # of which ASCII is a part


def say(text: str) -> None:
    """One message on standard error; where that is impossible, nobody can be told."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def read_all() -> str:
    """All of standard input, without the newline that ends its last line (`echo` writes one)."""
    try:
        text: str = _input().read()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(error) from error
    return text.removesuffix("\n").removesuffix("\r")


def read_line(prompt: str) -> str | None:
    """The next line without surrounding space; None at the end of the input. On a terminal `prompt` is shown."""
    on_terminal = _input().isatty()
    try:
        return input(prompt if on_terminal else "").strip()
    except EOFError:
        if on_terminal:
            print()
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(error) from error


def json_text(value: Any) -> str:
    """One JSON value that standard output can show exactly."""
    return json.dumps(value, ensure_ascii=_codec(sys.stdout) != "utf-8")


def finish(code: int) -> int:
    """Write what is still held back; the exit code, 1 in place of 0 where that fails."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        return give_up_output(error) or code
    return code


def give_up_output(error: Exception) -> int:
    """After a failed write: Python must not try again when it ends. The exit code."""
    sys.stdout = None
    if isinstance(error, BrokenPipeError):
        return 0  # the reader has seen enough
    say(f"tinyllm: error: standard output cannot be written: {getattr(error, 'strerror', None) or error}")
    return 1


def _input() -> Any:
    if sys.stdin is None:
        raise ConfigError("standard input is closed; give the text as an argument, or connect an input")
    return sys.stdin


def _unreadable(error: Exception) -> ConfigError:
    if isinstance(error, UnicodeDecodeError):
        return ConfigError(f"standard input is not {error.encoding.upper()}: {error.reason} at byte {error.start}")
    return ConfigError(f"standard input cannot be read: {getattr(error, 'strerror', None) or error}")


def _codec(stream: Any) -> str:
    try:
        return codecs.lookup(stream.encoding).name
    except (LookupError, TypeError, AttributeError):
        return "utf-8"  # a stand-in for a terminal, which takes any character


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"tinyllm: warning: {' '.join(str(message).split())}")
