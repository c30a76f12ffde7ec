"""The attention op: against float64, over pages, windows and batches, and the independence of its rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import op_cases
import ops_api
import oracle
from ops_types import PAGE_TOKENS, AttentionShape, Batch, Segment, Target
from tolerances import OPS, assert_close

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    target: Target
    batch: Batch
    shape: AttentionShape
    q: NDArray[np.float32]  # [rows, heads * head_dim]
    kv: NDArray[np.float32]  # T values where a sequence has tokens, NaN elsewhere

    def run(self, rows: slice = slice(None)) -> NDArray[np.float32]:
        """The op on some of the rows: [rows, heads * head_dim]."""
        batch = self.batch.take(range(self.batch.num_rows)[rows])
        return ops_api.attention(self.target, batch, self.shape, self.q[rows], self.kv)

    def check(self) -> None:
        """Compares with the oracle on all rows but padding."""
        want = oracle.attention(self.q, self.kv, self.shape, self.batch)
        real = self.batch.slots >= 0
        assert_close(self.run()[real], want.value[real], OPS[self.target.dtype], want.scale[real])


def make_case(rng: np.random.Generator, target: Target, batch: Batch, shape: AttentionShape) -> Case:
    """Random q, and a cache that holds each sequence up to its last row and nothing else."""
    kv = np.full(shape.kv_shape(batch.num_pages), np.nan, np.float32)
    for slot in np.unique(batch.slots[batch.slots >= 0]):
        positions = np.arange(batch.positions[batch.slots == slot].max() + 1)
        pages = batch.block_table[slot, positions // PAGE_TOKENS]
        cells = (len(positions), 2, shape.num_kv_heads, shape.head_dim)
        kv[pages, :, :, positions % PAGE_TOKENS] = target.round(rng.normal(size=cells))
    q = target.round(2 * rng.normal(size=(batch.num_rows, shape.num_heads * shape.head_dim)))
    return Case(target, batch, shape, q, kv)


def draw_case(data: st.DataObject, base: Target) -> Case:
    target = replace(base, dtype=data.draw(st.sampled_from(op_cases.activation_types(base))))
    phase = data.draw(op_cases.phases)
    batch = Batch.of(phase, data.draw(op_cases.segments_of(phase)), seed=data.draw(op_cases.seeds))
    shape = replace(
        data.draw(op_cases.attention_shapes()), window=data.draw(st.sampled_from([0, 0, 1, 2, 63, 64, 65, 100, 1000]))
    )
    return make_case(np.random.default_rng(data.draw(op_cases.seeds)), target, batch, shape)


@op_cases.op_settings
@given(data=st.data())
def test_equals_float64(op_target: Target, data: st.DataObject) -> None:
    draw_case(data, op_target).check()


@op_cases.op_settings
@given(data=st.data())
def test_rows_are_independent(op_target: Target, data: st.DataObject) -> None:
    case = draw_case(data, op_target)
    rows = op_cases.consecutive_rows(data, case.batch)
    real = case.batch.slots[rows] >= 0
    np.testing.assert_array_equal(case.run(rows)[real], case.run()[rows][real])


@pytest.mark.slow
@pytest.mark.parametrize("window", [0, 500])
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_long_context(op_target: Target, phase: str, window: int) -> None:
    """Long enough that a backend splits the context of a row; rows of very different length run together."""
    rows = 1 if phase == "decode" else 40
    batch = Batch.of(phase, [Segment(0, 4999, 1), Segment(1, 10, rows), Segment(2, 2047 - rows // 2, rows)])
    shape = AttentionShape(num_heads=4, num_kv_heads=2, head_dim=64, window=window)
    case = make_case(np.random.default_rng(1), op_target, batch, shape)
    case.check()
    everything = case.run()
    for row in (0, 1, rows, batch.num_rows - 1):
        np.testing.assert_array_equal(case.run(slice(row, row + 1)), everything[row : row + 1])


# Head dimensions with kernels of their own, with query heads a KV head on both sides of the 8 that a block takes.
HEADS = [(64, 9, 1), (80, 6, 3), (96, 7, 1), (128, 16, 2), (256, 8, 1), (20, 4, 2)]
each_head_dim = pytest.mark.parametrize(("head_dim", "num_heads", "num_kv_heads"), HEADS)


@each_head_dim
@pytest.mark.parametrize(("window", "dtype"), [(0, "float16"), (70, "bfloat16")])
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_shapes_about_the_gpu_kernels_switches(
    cuda_target: Target, phase: str, window: int, dtype: str, head_dim: int, num_heads: int, num_kv_heads: int
) -> None:
    """Borders of pages and of the parts that a decode row's context is cut into; tiles of prefill rows."""
    if phase == "decode":
        positions = [0, 62, 63, 64, 127, 128, 510, 511, 512, 513, 1023, 1024, 1100]
        segments = [Segment(slot, position, 1) for slot, position in enumerate(positions)]
    else:
        segments = [Segment(0, 0, 129), Segment(1, 63, 65), Segment(2, 500, 64), Segment(3, 1, 33)]
    shape = AttentionShape(num_heads, num_kv_heads, head_dim, window)
    rng = np.random.default_rng(head_dim)
    case = make_case(rng, replace(cuda_target, dtype=dtype), Batch.of(phase, segments), shape)
    case.check()
    everything = case.run()
    for row in (0, len(everything) // 2, len(everything) - 1):
        np.testing.assert_array_equal(case.run(slice(row, row + 1)), everything[row : row + 1])


@each_head_dim
def test_decode_cuts_a_long_context(cuda_target: Target, head_dim: int, num_heads: int, num_kv_heads: int) -> None:
    """Both sides of the length from which the number of parts stays and their size grows."""
    batch = Batch.of("decode", [Segment(0, 16383, 1), Segment(1, 16384, 1)])
    shape = AttentionShape(num_heads // num_kv_heads, 1, head_dim)
    case = make_case(np.random.default_rng(5), cuda_target, batch, shape)
    case.check()
    np.testing.assert_array_equal(case.run(slice(0, 1)), case.run()[:1])


def test_decode_at_128k_tokens(cuda_target: Target) -> None:
    batch = Batch.of("decode", [Segment(0, (128 << 10) - 1, 1)])
    make_case(np.random.default_rng(6), cuda_target, batch, AttentionShape(8, 1, 64)).check()


def test_context_bound_may_be_rounded_up(op_target: Target) -> None:
    """StepBatch.max_kv_len only bounds the lengths: its value must not change a bit."""
    batch = Batch.of("decode", [Segment(0, 700, 1), Segment(1, 130, 1)])
    case = make_case(
        np.random.default_rng(2), op_target, batch, AttentionShape(num_heads=4, num_kv_heads=4, head_dim=64)
    )
    looser = replace(case, batch=replace(batch, max_kv_len=batch.block_table.shape[1] * PAGE_TOKENS))
    np.testing.assert_array_equal(looser.run(), case.run())


def test_grouped_heads_equal_repeated_heads(op_target: Target) -> None:
    grouped = AttentionShape(num_heads=6, num_kv_heads=2, head_dim=80)
    batch = Batch.of("prefill", [Segment(0, 30, 70)])
    case = make_case(np.random.default_rng(3), op_target, batch, grouped)
    repeated = replace(case, shape=replace(grouped, num_kv_heads=6), kv=np.repeat(case.kv, grouped.q_per_kv, axis=2))
    tolerance = OPS[op_target.dtype]
    assert_close(repeated.run(), case.run(), tolerance, 1.0)


def test_large_scores_do_not_overflow(op_target: Target) -> None:
    """Scores of several hundred: the softmax must subtract the maximum."""
    batch = Batch.of("prefill", [Segment(0, 0, 70)])
    shape = AttentionShape(num_heads=1, num_kv_heads=1, head_dim=64)
    case = make_case(np.random.default_rng(4), op_target, batch, shape)
    replace(case, q=op_target.round(case.q * 64)).check()
