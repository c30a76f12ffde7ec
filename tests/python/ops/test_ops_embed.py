"""The embed op: rows of the table as they are stored, and the record of tokens seen."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import op_cases
import ops_api
import oracle
from ops_types import Batch, Segment, Target


@op_cases.op_settings
@given(
    data=st.data(), phase=op_cases.phases, vocab=st.integers(1, 300), hidden_dim=op_cases.FEATURES, seed=op_cases.seeds
)
def test_rows_are_the_stored_rows(
    op_target: Target, data: st.DataObject, phase: str, vocab: int, hidden_dim: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    target = data.draw(op_cases.targets(op_target))
    rows = data.draw(op_cases.rows_of(phase))
    batch = Batch.of_rows(phase, rows, token_ids=rng.integers(0, vocab, rows))
    table = op_cases.random_weight(rng, vocab, hidden_dim)
    hidden, _ = ops_api.embed(target, batch, table)
    # The product of an int8 and a float16 is exact in float32, so rounding to T is the only one.
    np.testing.assert_array_equal(hidden, target.round(oracle.stored_weight(table, target))[batch.token_ids])


@op_cases.op_settings
@given(vocab=st.integers(1, 100), seed=op_cases.seeds)
def test_seen_gains_the_tokens_of_each_slot(op_target: Target, vocab: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    segments = [Segment(2, 0, 5), Segment(0, 3, 1), Segment(1, 0, 7)]
    batch = Batch.of("prefill", segments, token_ids=rng.integers(0, vocab, 13))
    before = rng.random((3, vocab)) < 0.3
    _, after = ops_api.embed(op_target, batch, op_cases.random_weight(rng, vocab, 8), ops_api.pack_seen(before))
    want = before.copy()
    want[batch.slots, batch.token_ids] = True
    np.testing.assert_array_equal(after, ops_api.pack_seen(want))


def test_padding_rows_leave_no_trace_in_seen(op_target: Target) -> None:
    batch = Batch.of("decode", [Segment(1, 4, 1), Segment(-1, 0, 1), Segment(0, 9, 1)], token_ids=[3, 0, 40])
    table = op_cases.random_weight(np.random.default_rng(0), 50, 8)
    hidden, seen = ops_api.embed(op_target, batch, table, np.zeros((2, 2), np.uint32))
    assert seen.tolist() == [[0, 1 << 8], [1 << 3, 0]]
    np.testing.assert_array_equal(hidden, op_target.round(oracle.stored_weight(table, op_target))[[3, 0, 40]])
