"""linear_residual, gate_up and logits: against float64, and the independence of their rows."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import op_cases
import ops_api
import oracle
from ops_types import NUMPY_DTYPES, Batch, Linear, Target
from tinyllm.config import QuantizationType
from tolerances import OPS, assert_close

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from oracle import Expected


class Case(NamedTuple):
    """One op on one set of rows."""

    target: Target
    batch: Batch
    run: Callable[[Sequence[int]], NDArray]  # the op on some of the rows: [len(rows), outputs]
    want: Expected

    def check(self) -> None:
        """Compares all rows with the oracle."""
        got = self.run(range(self.batch.num_rows))
        assert_close(got, self.want.value, OPS[self.target.dtype], self.want.scale)


class Shape(NamedTuple):
    """A step of `rows` rows through a layer [n, k]."""

    phase: str
    rows: int
    n: int
    k: int


def residual_case(rng: np.random.Generator, target: Target, shape: Shape) -> Case:
    batch = Batch.of_rows(shape.phase, shape.rows)
    layer = op_cases.random_linear(rng, shape.n, shape.k)
    x = op_cases.random_activations(rng, target, shape.rows, shape.k)
    hidden = op_cases.random_activations(rng, target, shape.rows, shape.n)
    return Case(
        target,
        batch,
        lambda rows: ops_api.linear_residual(target, batch.take(rows), layer, x[rows], hidden[rows]),
        oracle.linear_residual(x, layer, hidden, target),
    )


def gate_up_case(rng: np.random.Generator, target: Target, shape: Shape) -> Case:
    batch = Batch.of_rows(shape.phase, shape.rows)
    gate, up = (op_cases.random_linear(rng, shape.n, shape.k) for _ in range(2))
    norm = op_cases.random_norm(rng, shape.k)
    hidden = op_cases.random_activations(rng, target, shape.rows, shape.k)
    return Case(
        target,
        batch,
        lambda rows: ops_api.gate_up(target, batch.take(rows), norm, gate, up, hidden[rows]),
        oracle.gate_up(hidden, norm, gate, up, target),
    )


def logits_case(rng: np.random.Generator, target: Target, shape: Shape) -> Case:
    batch = Batch.of_rows(shape.phase, shape.rows)
    head = op_cases.random_weight(rng, shape.n, shape.k, rng.choice(list(NUMPY_DTYPES)))
    norm = op_cases.random_norm(rng, shape.k)
    hidden = op_cases.random_activations(rng, target, shape.rows, shape.k)
    return Case(
        target,
        batch,
        lambda rows: ops_api.logits(target, batch.take(rows), norm, head, hidden[rows], np.arange(len(rows))),
        oracle.logits(hidden, norm, Linear(head), np.arange(shape.rows), target),
    )


def draw_case(data: st.DataObject, base: Target, make_case: Callable[..., Case]) -> Case:
    phase = data.draw(op_cases.phases)
    rows, n, k = (data.draw(s) for s in (op_cases.rows_of(phase), op_cases.FEATURES, op_cases.FEATURES))
    rng = np.random.default_rng(data.draw(op_cases.seeds))
    return make_case(rng, data.draw(op_cases.targets(base)), Shape(phase, rows, op_cases.fitting(rows, n, k), k))


each_op = pytest.mark.parametrize("make_case", [residual_case, gate_up_case, logits_case])


@each_op
@op_cases.op_settings
@given(data=st.data())
def test_equals_float64(op_target: Target, make_case: Callable[..., Case], data: st.DataObject) -> None:
    draw_case(data, op_target, make_case).check()


@each_op
@op_cases.op_settings
@given(data=st.data())
def test_rows_are_independent(op_target: Target, make_case: Callable[..., Case], data: st.DataObject) -> None:
    case = draw_case(data, op_target, make_case)
    rows = op_cases.some_rows(data, case.batch)
    np.testing.assert_array_equal(case.run(rows), case.run(range(case.batch.num_rows))[rows])


@pytest.mark.slow
@pytest.mark.parametrize("quantization", list(QuantizationType))
@pytest.mark.parametrize("k", [1, 31, 33, 100, 576, 1536])
def test_row_counts_about_every_switch(op_target: Target, k: int, quantization: QuantizationType) -> None:
    rng = np.random.default_rng(k)
    steps = [("decode", rows) for rows in (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65)]
    steps += [("prefill", rows) for rows in (1, 16, 17, 63, 64, 65, 128, 129, 300)]
    dtypes = itertools.cycle(op_cases.activation_types(op_target))
    for (phase, rows), dtype in zip(steps, dtypes, strict=False):
        target = replace(op_target, dtype=dtype, quantization=quantization)
        residual_case(rng, target, Shape(phase, rows, n=40, k=k)).check()


# Shapes about what the GPU's decode kernels switch on (native/backends/cuda/linear_decode*): x that fits in shared
# memory or not, a norm of up to 8192 inputs inside the kernel or before it, x whose rows are 16-byte aligned or not,
# more tiles of 16 outputs than SMs, the sum over k cut into chunks (n = 40) or not (33,800 outputs fill the chip),
# group tails.
LARGE_SHAPES = [
    (residual_case, 40, 9000, 128),
    (residual_case, 2, 16384, 256),
    (residual_case, 17, 16385, 64),
    (residual_case, 2200, 577, 32),
    (gate_up_case, 15, 8192, 128),
    (gate_up_case, 16, 8200, 0),
    (gate_up_case, 1100, 130, 256),
    (logits_case, 33_800, 64, 32),
    (logits_case, 2113, 576, 0),
    (logits_case, 31, 9000, 64),
]


@pytest.mark.parametrize("quantization", list(QuantizationType))
@pytest.mark.parametrize(("make_case", "n", "k", "group_size"), LARGE_SHAPES)
def test_decode_shapes_about_the_switches(
    cuda_target: Target, make_case: Callable[..., Case], n: int, k: int, group_size: int, quantization: QuantizationType
) -> None:
    """Against float64, and the same bits for a row alone as in the largest step."""
    rng = np.random.default_rng(n + k)
    for dtype, rows in zip(itertools.cycle(["float16", "bfloat16"]), (1, 8, 9, 65), strict=False):
        target = replace(cuda_target, dtype=dtype, quantization=quantization, group_size=group_size)
        case = make_case(rng, target, Shape("decode", rows, n, k))
        case.check()
    np.testing.assert_array_equal(case.run([rows - 1]), case.run(range(rows))[-1:])


# (K, T, group size): a K whose rows are not aligned takes mma.sync also where there is wgmma; then one 128-input unit a
# slice and less, and several, as real models have.
DEPTHS = [(577, "float16", 128), (576, "bfloat16", 64), (4096, "float16", 128), (4096, "bfloat16", 32)]
DEPTHS += [(11_008, "float16", 0), (11_008, "bfloat16", 128)]


@pytest.mark.parametrize("quantization", list(QuantizationType))
@pytest.mark.parametrize(("k", "dtype", "group_size"), DEPTHS)
@each_op
def test_decode_rows_have_the_same_bits_in_steps_of_any_size(
    cuda_target: Target,
    make_case: Callable[..., Case],
    k: int,
    dtype: str,
    group_size: int,
    quantization: QuantizationType,
) -> None:
    """1 to 64 rows: all kernels, every number of row tiles, and rows at any place in a step; and against float64."""
    rng = np.random.default_rng(64)
    target = replace(cuda_target, dtype=dtype, quantization=quantization, group_size=group_size)
    case = make_case(rng, target, Shape("decode", 64, n=300, k=k))
    case.check()
    everything = case.run(range(64))
    for count in (1, 2, 7, 8, 9, 16, 17, 32, 33, 48, 63):
        rows = rng.permutation(64)[:count]
        np.testing.assert_array_equal(case.run(rows), everything[rows])


# Shapes for which linear/prefill_sm90.cu takes each of its tiles on 132 SMs, with tails: 256 tokens, 128, 64, and 64 in
# the second band of tokens. Small shapes, which the other tests have, all take 64.
PREFILL_SHAPES = [(250, 16_890), (120, 16_890), (60, 16_890), (2100, 300)]


@pytest.mark.parametrize("quantization", list(QuantizationType))
@pytest.mark.parametrize(("rows", "n"), PREFILL_SHAPES)
def test_prefill_tiles_of_every_width(cuda_target: Target, rows: int, n: int, quantization: QuantizationType) -> None:
    """Against float64, and a row alone has the same bits as in the widest tile."""
    rng = np.random.default_rng(rows)
    for dtype, make_case in (("float16", residual_case), ("bfloat16", gate_up_case)):
        target = replace(cuda_target, dtype=dtype, quantization=quantization, group_size=32)
        case = make_case(rng, target, Shape("prefill", rows, n // (2 if make_case is gate_up_case else 1), k=72))
        case.check()
        np.testing.assert_array_equal(case.run([rows - 1]), case.run(range(rows))[-1:])


@op_cases.op_settings
@given(phase=op_cases.phases, data=st.data())
def test_logits_of_chosen_rows_only(op_target: Target, phase: str, data: st.DataObject) -> None:
    rng = np.random.default_rng(0)
    batch = Batch.of_rows(phase, data.draw(op_cases.rows_of(phase)))
    rows = op_cases.some_rows(data, batch)
    head, norm = op_cases.random_weight(rng, 40, 96), op_cases.random_norm(rng, 96)
    hidden = op_cases.random_activations(rng, op_target, batch.num_rows, 96)
    everything = ops_api.logits(op_target, batch, norm, head, hidden, np.arange(batch.num_rows))
    unread = np.setdiff1d(np.arange(batch.num_rows), rows)
    hidden[unread] = np.nan
    np.testing.assert_array_equal(ops_api.logits(op_target, batch, norm, head, hidden, rows), everything[rows])
