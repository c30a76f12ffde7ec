"""linear_residual, gate_up and logits: against float64, and the independence of their rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import op_cases
import ops_api
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_types import Batch, Linear, Target
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


class Drawn(NamedTuple):
    """What the cases of all three ops have in common."""

    rng: np.random.Generator
    target: Target
    batch: Batch
    n: int
    k: int


def draw_common(data: st.DataObject, base: Target) -> Drawn:
    phase = data.draw(op_cases.phases)
    rows, n, k = (data.draw(s) for s in (op_cases.rows_of(phase), op_cases.FEATURES, op_cases.FEATURES))
    rng = np.random.default_rng(data.draw(op_cases.seeds))
    target = data.draw(op_cases.targets(base))
    return Drawn(rng, target, Batch.of_rows(phase, rows), op_cases.fitting(rows, n, k), k)


def residual_case(data: st.DataObject, base: Target) -> Case:
    rng, target, batch, n, k = draw_common(data, base)
    layer = op_cases.random_linear(rng, n, k)
    x = op_cases.random_activations(rng, target, batch.num_rows, k)
    hidden = op_cases.random_activations(rng, target, batch.num_rows, n)
    return Case(
        target,
        batch,
        lambda rows: ops_api.linear_residual(target, batch.take(rows), layer, x[rows], hidden[rows]),
        oracle.linear_residual(x, layer, hidden, target),
    )


def gate_up_case(data: st.DataObject, base: Target) -> Case:
    rng, target, batch, n, k = draw_common(data, base)
    gate, up = op_cases.random_linear(rng, n, k), op_cases.random_linear(rng, n, k)
    norm = op_cases.random_norm(rng, k)
    hidden = op_cases.random_activations(rng, target, batch.num_rows, k)
    return Case(
        target,
        batch,
        lambda rows: ops_api.gate_up(target, batch.take(rows), norm, gate, up, hidden[rows]),
        oracle.gate_up(hidden, norm, gate, up, target),
    )


def logits_case(data: st.DataObject, base: Target) -> Case:
    rng, target, batch, n, k = draw_common(data, base)
    head = op_cases.random_weight(rng, n, k, rng.choice(["float32", "float16", "bfloat16"]))
    norm = op_cases.random_norm(rng, k)
    hidden = op_cases.random_activations(rng, target, batch.num_rows, k)
    return Case(
        target,
        batch,
        lambda rows: ops_api.logits(target, batch.take(rows), norm, head, hidden[rows], np.arange(len(rows))),
        oracle.logits(hidden, norm, Linear(head), np.arange(batch.num_rows), target),
    )


each_op = pytest.mark.parametrize("draw_case", [residual_case, gate_up_case, logits_case])


@each_op
@given(data=st.data())
def test_equals_float64(op_target: Target, draw_case: Callable[..., Case], data: st.DataObject) -> None:
    case = draw_case(data, op_target)
    got = case.run(range(case.batch.num_rows))
    assert_close(got, case.want.value, OPS[case.target.dtype], case.want.scale)


@each_op
@given(data=st.data())
def test_rows_are_independent(op_target: Target, draw_case: Callable[..., Case], data: st.DataObject) -> None:
    case = draw_case(data, op_target)
    rows = op_cases.some_rows(data, case.batch)
    np.testing.assert_array_equal(case.run(rows), case.run(range(case.batch.num_rows))[rows])


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
