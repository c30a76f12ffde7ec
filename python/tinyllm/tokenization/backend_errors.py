"""What the tokenizers package raises, turned into errors of ours.

The package is written in Rust: damage that it did not foresee ends in a panic, which reaches Python as
`PanicException`. That class is a BaseException and cannot be imported, so it is known by its name.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import CheckpointError, TinyllmError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def backend_errors(what: str) -> Iterator[None]:
    """Around calls of the tokenizers package: every error and panic becomes CheckpointError(`what`: reason)."""
    try:
        yield
    except TinyllmError:
        raise
    except Exception as error:
        raise CheckpointError(f"{what}: {error}") from error
    except BaseException as error:
        if not is_panic(error):
            raise
        raise CheckpointError(f"{what}: the tokenizers package panicked: {error}") from error


def is_panic(error: BaseException) -> bool:
    """Whether `error` is a Rust panic."""
    return type(error).__name__ == "PanicException"
