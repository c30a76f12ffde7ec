"""Hypothesis strategies and random data shared by the op tests.

Hypothesis draws shapes, types and a seed; NumPy makes the arrays from the seed. Shapes straddle what kernels switch on:
vector widths, tiles of 16 and 64, pages of 64 tokens, quantisation groups with a short tail, and odd sizes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from ops_types import NUMPY_DTYPES, AttentionShape, Linear, Norm, Segment
from tinyllm.config import QuantizationType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ops_types import Batch, Target

FEATURES = st.one_of(
    st.sampled_from([1, 2, 31, 33, 63, 64, 65, 100, 127, 128, 129, 256, 300, 576, 1536]), st.integers(1, 200)
)
"""Inputs or outputs of a linear layer."""

_ROWS = {
    "decode": st.one_of(st.sampled_from([1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65]), st.integers(1, 70)),
    "prefill": st.one_of(st.sampled_from([1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 256, 300]), st.integers(1, 300)),
}
# Multiply-adds a case may cost: keeps the plain reference kernels quick.
_BUDGET = 6_000_000

# A case costs milliseconds, and each test runs on every set of kernels: a fifth of the profile's examples will do.
op_settings = settings(max_examples=settings().max_examples // 5)

phases = st.sampled_from(["decode", "prefill"])
seeds = st.integers(0, 2**32 - 1)


def rows_of(phase: str) -> st.SearchStrategy[int]:
    """Row counts of a step of `phase`."""
    return _ROWS[phase]


def fitting(rows: int, n: int, k: int) -> int:
    """`n`, lowered where rows x n x k would take long."""
    return max(1, min(n, _BUDGET // (rows * k)))


def activation_types(target: Target) -> list[str]:
    """Activation types that a device runs."""
    return ["float16", "bfloat16"] if target.device == "cuda" else ["float16", "bfloat16", "float32"]


def targets(base: Target) -> st.SearchStrategy[Target]:
    """`base` with any activation type, and any quantisation of linear weights."""
    quantizations = st.sampled_from(
        [(QuantizationType.NONE, 128)] + [(QuantizationType.W8A16, g) for g in (128, 32, 64, 256, 0)]
    )
    return st.builds(
        lambda dtype, storage: replace(base, dtype=dtype, quantization=storage[0], group_size=storage[1]),
        st.sampled_from(activation_types(base)),
        quantizations,
    )


def random_weight(rng: np.random.Generator, n: int, k: int, dtype: str = "float32") -> NDArray:
    """[n, k] of size k^-0.5, so that a product with normalised activations is of size 1."""
    return rng.normal(0, k**-0.5, (n, k)).astype(np.float32).astype(NUMPY_DTYPES[dtype])


def random_linear(rng: np.random.Generator, n: int, k: int) -> Linear:
    """A layer with weights of a random element type, with or without a bias."""
    dtype = rng.choice(list(NUMPY_DTYPES))
    return Linear(
        random_weight(rng, n, k, dtype), rng.normal(size=n).astype(np.float32) if rng.random() < 0.5 else None
    )


def random_norm(rng: np.random.Generator, features: int) -> Norm:
    """Norm weights about 1, of both signs."""
    weight = rng.choice([-1, 1], features) * rng.uniform(0.5, 1.5, features)
    return Norm(weight.astype(np.float32), eps=float(np.float32(rng.choice([1e-5, 1e-6]))))


def random_activations(rng: np.random.Generator, target: Target, rows: int, features: int) -> NDArray[np.float32]:
    """[rows, features] of T values; rows differ in size, and are not centred."""
    size = np.exp2(rng.uniform(-4, 4, (rows, 1)))
    return target.round(size * (rng.normal(size=(rows, features)) + rng.normal(0, 0.3, (rows, 1))))


def some_rows(data: st.DataObject, batch: Batch) -> list[int]:
    """Rows of a step in their order: one of them alone, or a random subset."""
    rows = range(batch.num_rows)
    if data.draw(st.booleans()):
        return [data.draw(st.sampled_from(rows))]
    rng = np.random.default_rng(data.draw(seeds))
    return np.sort(rng.choice(rows, rng.integers(1, batch.num_rows + 1), replace=False)).tolist()


# Positions about the borders of pages.
_POSITIONS = st.one_of(st.sampled_from([0, 1, 62, 63, 64, 65, 127, 128, 191, 192]), st.integers(0, 260))


def segments_of(phase: str) -> st.SearchStrategy[list[Segment]]:
    """Segments of one step: decode rows of several sequences and padding, or chunks of up to three prompts."""
    if phase == "decode":
        return st.lists(st.one_of(_POSITIONS, _POSITIONS, st.none()), min_size=1, max_size=20).map(
            lambda positions: [
                Segment(-1, 0, 1) if position is None else Segment(slot, position, 1)
                for slot, position in enumerate(positions)
            ]
        )
    chunk = st.tuples(_POSITIONS, st.one_of(st.sampled_from([1, 15, 16, 17, 63, 64, 65, 129]), st.integers(1, 150)))
    return st.lists(chunk, min_size=1, max_size=3).flatmap(
        lambda chunks: st.permutations(range(len(chunks))).map(
            lambda slots: [Segment(slot, *chunk) for slot, chunk in zip(slots, chunks, strict=True)]
        )
    )


def attention_shapes() -> st.SearchStrategy[AttentionShape]:
    """Heads grouped and not, head_dim of the supported models and small ones."""
    heads = st.sampled_from([(1, 1), (2, 2), (2, 1), (3, 1), (4, 2), (9, 3), (8, 1)])
    head_dims = st.sampled_from([64, 80, 96, 128, 256, 2, 8, 20, 32, 260, 512])
    return st.builds(lambda pair, head_dim: AttentionShape(*pair, head_dim), heads, head_dims)


def consecutive_rows(data: st.DataObject, batch: Batch) -> slice:
    """A run of a step's rows, such that what remains of each sequence is consecutive."""
    start = data.draw(st.integers(0, batch.num_rows - 1))
    stop = data.draw(st.one_of(st.just(start + 1), st.integers(start + 1, batch.num_rows)))
    return slice(start, stop)
