"""The reference models of tests/data: what they are called, where they lie, and transformers' results for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DATA = Path(__file__).resolve().parents[2] / "data"


@dataclass(frozen=True)
class Reference:
    """transformers' results in float32 for one sequence; tests/data/README.md describes the arrays."""

    token_ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    logits: NDArray[np.float32]
    greedy_ids: NDArray[np.int32]
    greedy_logprobs: NDArray[np.float32]


@dataclass(frozen=True)
class ReferenceCase:
    """One model and one sequence. `path` is what tinyllm.load takes: a directory or a GGUF file."""

    name: str
    path: Path
    reference_file: Path

    def load(self) -> Reference:
        """Read the arrays."""
        with np.load(self.reference_file) as arrays:
            return Reference(**arrays)

    @property
    def is_gguf(self) -> bool:
        return self.path.suffix == ".gguf"


def _case(reference_file: Path) -> ReferenceCase:
    """reference-past.npz of the model llama_dynamic becomes the case llama_dynamic-past."""
    directory = reference_file.parent
    gguf_file = directory / "model.gguf"
    return ReferenceCase(
        name=directory.name + reference_file.stem.removeprefix("reference"),
        path=gguf_file if gguf_file.exists() else directory,
        reference_file=reference_file,
    )


CASES = [_case(file) for file in sorted(DATA.glob("*/reference*.npz"))]
if not CASES:
    # Tests parametrised over an empty list would be skipped in silence.
    raise FileNotFoundError(f"no reference models in {DATA}; write them with tools/make_reference.py --out tests/data")


def case(name: str) -> ReferenceCase:
    """The case called `name`; KeyError if there is none."""
    return {case.name: case for case in CASES}[name]
