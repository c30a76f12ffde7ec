"""The qkv op: against float64, what it writes into the cache and where, and the independence of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import op_cases
import ops_api
import oracle
from ops_types import AttentionShape, Batch, QkvWeights, Rope, Segment, Target
from tolerances import OPS, assert_close

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    target: Target
    batch: Batch
    shape: AttentionShape
    weights: QkvWeights
    rope: Rope
    hidden: NDArray[np.float32]  # [rows, hidden_dim]
    kv: NDArray[np.float32]  # the cache before: T values everywhere but in the cells that the step fills

    def run(self, rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The op on some of the rows: q [rows, heads * head_dim] and the cache afterwards."""
        batch = self.batch.take(range(self.batch.num_rows)[rows])
        return ops_api.qkv(self.target, batch, self.weights, self.shape, self.rope, self.hidden[rows], self.kv)


def draw_case(data: st.DataObject, base: Target) -> Case:
    phase = data.draw(op_cases.phases)
    batch = Batch.of(phase, data.draw(op_cases.segments_of(phase)), seed=data.draw(op_cases.seeds))
    shape = data.draw(op_cases.attention_shapes())
    rng = np.random.default_rng(data.draw(op_cases.seeds))
    target = data.draw(op_cases.targets(base))
    outputs = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    hidden_dim = op_cases.fitting(batch.num_rows, data.draw(op_cases.FEATURES), outputs)
    rotary_dim = data.draw(st.sampled_from([shape.head_dim, max(2, shape.head_dim // 4 * 2)]))
    has_head_norms = data.draw(st.booleans())
    weights = QkvWeights(
        op_cases.random_norm(rng, hidden_dim),
        *[
            op_cases.random_linear(rng, heads * shape.head_dim, hidden_dim)
            for heads in (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
        ],
        *[op_cases.random_norm(rng, shape.head_dim) if has_head_norms else None for _ in "qk"],
    )
    inv_freq = (10000.0 ** (-np.arange(0, rotary_dim, 2) / rotary_dim)).astype(np.float32)
    kv = target.round(rng.normal(size=shape.kv_shape(batch.num_pages)))
    pages, tokens = oracle.cache_cells(batch, np.flatnonzero(batch.slots >= 0))
    kv[pages, :, :, tokens] = np.nan
    hidden = op_cases.random_activations(rng, target, batch.num_rows, hidden_dim)
    return Case(target, batch, shape, weights, Rope(inv_freq), hidden, kv)


@op_cases.op_settings
@given(data=st.data())
def test_equals_float64(op_target: Target, data: st.DataObject) -> None:
    case = draw_case(data, op_target)
    q, kv = case.run(slice(None))
    want = oracle.qkv(case.hidden, case.weights, case.shape, case.batch, case.rope, case.target)
    tolerance = OPS[case.target.dtype]
    rows = np.flatnonzero(case.batch.slots >= 0)
    heads = (len(rows), case.shape.num_heads, case.shape.head_dim)
    assert_close(q[rows].reshape(heads), want.q.value[rows], tolerance, want.q.scale[rows])
    pages, tokens = oracle.cache_cells(case.batch, rows)
    for which, expected in enumerate((want.k, want.v)):
        assert_close(kv[pages, which, :, tokens], expected.value[rows], tolerance, expected.scale[rows])
    # Nothing else in the cache has changed.
    kv[pages, :, :, tokens] = np.nan
    np.testing.assert_array_equal(kv, case.kv)


@op_cases.op_settings
@given(data=st.data())
def test_rows_are_independent(op_target: Target, data: st.DataObject) -> None:
    case = draw_case(data, op_target)
    rows = op_cases.consecutive_rows(data, case.batch)
    q, kv = case.run(slice(None))
    some_q, some_kv = case.run(rows)
    real = np.arange(case.batch.num_rows)[rows]
    real = real[case.batch.slots[real] >= 0]
    np.testing.assert_array_equal(some_q[real - rows.start], q[real])
    pages, tokens = oracle.cache_cells(case.batch, real)
    np.testing.assert_array_equal(some_kv[pages, :, :, tokens], kv[pages, :, :, tokens])


def test_padding_rows_append_nothing(op_target: Target) -> None:
    rng = np.random.default_rng(0)
    shape = AttentionShape(num_heads=2, num_kv_heads=1, head_dim=64)
    batch = Batch.of("decode", [Segment(1, 64, 1), Segment(-1, 0, 1), Segment(0, 63, 1), Segment(-1, 0, 1)])
    weights = QkvWeights(
        op_cases.random_norm(rng, 96), *[op_cases.random_linear(rng, heads * 64, 96) for heads in (2, 1, 1)]
    )
    rope = Rope((10000.0 ** (-np.arange(0, 64, 2) / 64)).astype(np.float32))
    hidden = op_cases.random_activations(rng, op_target, 4, 96)
    untouched = np.full(shape.kv_shape(batch.num_pages), np.nan, np.float32)
    _, kv = ops_api.qkv(op_target, batch, weights, shape, rope, hidden, untouched)
    filled = np.argwhere(~np.isnan(kv).any(axis=(1, 2, 4)))
    pages, tokens = oracle.cache_cells(batch, [0, 2])
    assert sorted(map(tuple, filled.tolist())) == sorted(zip(pages.tolist(), tokens.tolist(), strict=True))
    assert np.isnan(kv).sum() == kv.size - 2 * 2 * 64
