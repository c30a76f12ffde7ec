"""The exceptions tinyllm raises. All of them derive from `TinyllmError`.

A message says what was wrong, the values that were found, and what to do about it. Where Python already has a class
for the kind of mistake (`ValueError`, `MemoryError`), the tinyllm class derives from it as well, so that code written
without knowledge of tinyllm catches it too.
"""

from __future__ import annotations


class TinyllmError(Exception):
    """Base class of every error raised by tinyllm."""


class NotFiniteError(TinyllmError, ArithmeticError):
    """A model's logits are NaN or infinite: its numbers overflow in the type of its activations."""


class ClosedError(TinyllmError):
    """A call on a model that has been closed."""


class ConfigError(TinyllmError, ValueError):
    """A configuration field or argument has an unknown name or a value outside its range."""


class CheckpointError(TinyllmError):
    """A checkpoint is missing, damaged, inconsistent or of a kind tinyllm does not run.

    Messages quote the checkpoint, in which a name may have any length: the middle of a long one is left out.
    """

    _MOST_CHARACTERS = 4000

    def __init__(self, message: str = "") -> None:
        most = self._MOST_CHARACTERS
        super().__init__(message if len(message) <= most else f"{message[: most - 500]} ... {message[-490:]}")


class OutOfMemoryError(TinyllmError, MemoryError):
    """The planned memory does not fit, or an allocation failed."""


class CudaError(TinyllmError):
    """A call of the CUDA runtime or driver failed."""
