"""What every checkpoint format offers: `Checkpoint`, and `TensorInfo` for one stored tensor."""

from __future__ import annotations

import abc
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..config import GenerationConfig
from ..errors import CheckpointError, ConfigError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    import numpy as np

    from ..config import ModelConfig
    from ..tokenization.tokenizer import Tokenizer
    from .files import StoredFile


@dataclass(frozen=True)
class TensorInfo:
    """One tensor in a file: what its header says, and how to read it."""

    name: str  # canonical (schema.py)
    stored_name: str  # as in the file
    shape: tuple[int, ...]
    dtype: str  # stored type: "F32", "BF16", "Q4_1", ...
    file: Path
    stored_bytes: int
    reader: Callable[[], np.ndarray] = field(repr=False, compare=False)
    heap_bytes: int = 0  # heap that `load` takes, at most; none where it returns a view of the mapped file

    def load(self) -> np.ndarray:
        """The values: C-contiguous, of `shape`, as float32, float16 or ml_dtypes.bfloat16.

        Read-only if it is a view of the memory-mapped file. Nothing but the result stays in memory. OutOfMemoryError if
        the host has no room for `heap_bytes`.
        """
        try:
            return self.reader()
        except MemoryError as error:
            raise OutOfMemoryError(
                f"out of host memory while reading {self.file}: tensor {self.name!r} takes {self.heap_bytes} bytes "
                f"beside the model ({error})"
            ) from error


class Checkpoint(abc.ABC):
    """A model on disk: configuration, tensors, tokenizer and generation defaults. Made by `open_checkpoint`.

    Only headers are read until a tensor is loaded.
    """

    format: str  # "huggingface" or "gguf"
    has_weights = True
    heap_bytes = 0  # that the header takes while the checkpoint is open, about

    def __init__(
        self,
        path: Path,
        config: ModelConfig,
        generation_defaults: Mapping[str, Any],
        files: Iterable[StoredFile] = (),
        has_tokenizer: bool = False,
    ) -> None:
        self.path = path
        self.config = config  # dtype is the checkpoint's own; quantization and group_size are left at their defaults
        self.generation_defaults = dict(generation_defaults)  # fields of GenerationConfig the checkpoint recommends
        self.has_tokenizer = has_tokenizer  # whether there is one; it may still turn out to be unusable
        self._files = list(files)  # that hold the tensors
        self._made: dict[str, Tokenizer] = {}  # "tokenizer", once it is made
        self._check_generation_defaults()

    @property
    @abc.abstractmethod
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end generation; empty if the checkpoint names none and has no tokenizer to ask."""

    @abc.abstractmethod
    def check(self) -> None:
        """Compare the stored tensors with what the configuration implies, from headers alone.

        Raises CheckpointError naming file, tensor, expected and found.
        """

    @abc.abstractmethod
    def tensors(self) -> Iterator[TensorInfo]:
        """The model's tensors under canonical names, in the order a loader should read them."""

    @property
    def rope_freq_factors(self) -> bool:
        """Whether the checkpoint brings divisors of the RoPE frequencies (GGUF files of Llama 3.1 and later)."""
        return False

    def require_unchanged(self) -> None:
        """CheckpointError if one of the files with tensors was changed since its header was read."""
        for file in self._files:
            file.require_unchanged()

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer, built at first use. CheckpointError if there is none."""
        made = self._made.get("tokenizer")
        if made is None:
            # Without a lock, which an interrupt at the wrong moment would leave taken: threads that come at once may
            # each make one, and all of them get the first.
            made = self._made.setdefault("tokenizer", self._open_tokenizer())
            self._drop_source()
        return made

    def keep_tokenizer(self) -> None:
        """Have `tokenizer` work from now on whatever becomes of the files. What is wrong with it is raised there."""
        if self.has_tokenizer:
            with contextlib.suppress(CheckpointError):  # raised again by whatever asks for the tokenizer
                _ = self.tokenizer

    @abc.abstractmethod
    def _open_tokenizer(self) -> Tokenizer: ...

    def _drop_source(self) -> None:
        """Let go of what the tokenizer was made from."""
        return

    def close(self) -> None:
        """Let go of everything held for the tokenizer. One that was handed out before stays usable."""
        self._made.clear()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_generation_defaults(self) -> None:
        try:
            GenerationConfig(**self.generation_defaults)
        except ConfigError as error:
            raise CheckpointError(f"{self.path}: unusable generation defaults: {error}") from error
