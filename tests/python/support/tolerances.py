"""How far results may be from their references: the one place for the whole Python suite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Tolerance:
    """|got - want| <= rtol * |want| + atol * scale + tiny, where `scale` is the size of the terms that were summed."""

    rtol: float
    atol: float
    tiny: float = 0.0  # spacing of the subnormal numbers


# Ops, by activation type. u is the unit roundoff of the type: 2^-11 for float16, 2^-8 for bfloat16. rtol 2 u allows
# one rounding of the result and one of what it is made of; atol 4 u allows a rounding of every input of a sum (the
# normalised activations, or the dequantised weights), whose errors add up like the 2-norm of the terms. For float32
# the order of summation is what differs.
OPS = {
    "float32": Tolerance(rtol=2e-6, atol=4e-6, tiny=1e-30),
    "float16": Tolerance(rtol=2 * 2**-11, atol=4 * 2**-11, tiny=2**-24),
    "bfloat16": Tolerance(rtol=2 * 2**-8, atol=4 * 2**-8, tiny=1e-30),
}

# cos and sin of an angle of `scale` radians: the angle is a float32 product, then the function is rounded.
ROPE_TABLE = Tolerance(rtol=2e-7, atol=1.2e-7, tiny=5e-7)
# Dynamic RoPE raises theta to a power in float32 first.
ROPE_TABLE_DYNAMIC = Tolerance(rtol=2e-7, atol=1.5e-6, tiny=5e-7)
# Frequencies, computed in double precision and stored as float32.
ROPE_INV_FREQ = Tolerance(rtol=2e-7, atol=0.0)

# Sampling: scores are float32 sums of a logit and noise; log-probabilities sum over the vocabulary.
SCORES = Tolerance(rtol=4e-6, atol=0.0, tiny=4e-6)
LOGPROBS = Tolerance(rtol=1e-5, atol=0.0, tiny=1e-5)
# Relative distance from the border of top-p and min-p at which either side is right.
FILTER_BORDER = 1e-4

# Logits of whole models of tests/data against transformers in float32, by activation type; `scale` is their root mean
# square. The project asks for 1e-4 in float32; sums in another order make 6e-6. In the 16-bit types transformers' own
# logits are up to 2e-2 and 1.2e-1 of the root mean square off on these models.
MODEL_LOGITS = {
    "float32": Tolerance(rtol=0.0, atol=5e-5),
    "float16": Tolerance(rtol=0.0, atol=2.5e-2),
    "bfloat16": Tolerance(rtol=0.0, atol=2e-1),
}
# The same as one number, norm of the difference over norm of the reference, where single logits cannot hide the rest:
# transformers' own are 1e-6, 3.4e-3 and 2.7e-2.
MODEL_LOGITS_NORM = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}

# Mean KL divergence of the GPU's distributions from the CPU's: only the order of float32 sums differs, and with it the
# last bit of some 16-bit activations. That bit is 8 times larger in bfloat16, and the divergence grows with its square:
# on SmolLM2 8e-6 and 5e-4.
GPU_MEAN_KL = {"float16": 1e-4, "bfloat16": 1e-3}

_SHOWN = 10  # mismatches in a message


def assert_close(got: ArrayLike, want: ArrayLike, tolerance: Tolerance, scale: ArrayLike = 0.0) -> None:
    """Fails with the first mismatches (index, both values, limit) unless all of `got` is finite and close to `want`."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    limit = tolerance.rtol * np.abs(want) + tolerance.atol * np.asarray(scale, np.float64) + tolerance.tiny
    bad = ~(np.abs(got - want) <= limit)  # also true for NaN
    if not bad.any():
        return
    limit = np.broadcast_to(limit, got.shape)
    lines = [
        f"  {tuple(index)}: {got[tuple(index)]:.9g}, expected {want[tuple(index)]:.9g} +- {limit[tuple(index)]:.3g}"
        for index in np.argwhere(bad)[:_SHOWN].tolist()
    ]
    raise AssertionError(f"{bad.sum()} of {bad.size} values differ:\n" + "\n".join(lines))
