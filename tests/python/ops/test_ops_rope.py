"""RoPE: the frequencies of every type, and the table of cosines and sines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import op_cases
import ops_api
import oracle
import oracle_rope
from ops_types import Batch, Rope, Segment, Target
from tinyllm.config import ModelConfig
from tolerances import ROPE_INV_FREQ, ROPE_TABLE, ROPE_TABLE_DYNAMIC, assert_close

PLAIN = ModelConfig(vocab_size=32, hidden_dim=256, intermediate_dim=64, num_layers=1, num_heads=2, head_dim=256)

TYPES = {
    "default": {},
    "linear": {"rope_factor": 4.0},
    "dynamic": {"rope_factor": 2.0, "rope_original_max_seq_len": 512},
    "llama3": {
        "rope_factor": 8.0,
        "rope_low_freq_factor": 1.0,
        "rope_high_freq_factor": 4.0,
        "rope_original_max_seq_len": 8192,
    },
    "yarn": {"rope_factor": 4.0, "rope_original_max_seq_len": 4096},
}


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("rope_type", TYPES)
@op_cases.op_settings
@given(rotary_dim=st.sampled_from([4, 20, 64, 96, 128, 256]), theta=st.sampled_from([1e4, 5e5, 1e6]))
def test_inv_freq(rope_type: str, truncate: bool, rotary_dim: int, theta: float) -> None:
    config = replace(
        PLAIN,
        rope_type=rope_type,
        rotary_dim=rotary_dim,
        rope_theta=theta,
        rope_truncate=truncate,
        **TYPES[rope_type],
    )
    assert_close(ops_api.rope_inv_freq(config), oracle_rope.inverse_frequencies(config), ROPE_INV_FREQ)


def test_freq_factors_divide() -> None:
    factors = np.linspace(1, 8, 128, dtype=np.float32)
    want = oracle_rope.inverse_frequencies(PLAIN) / factors
    assert_close(ops_api.rope_inv_freq(PLAIN, factors), want, ROPE_INV_FREQ)


@op_cases.op_settings
@given(
    data=st.data(),
    phase=op_cases.phases,
    rotary_dim=st.sampled_from([2, 4, 20, 64, 80, 128, 256]),
    theta=st.sampled_from([1e4, 1e6]),
    attention_factor=st.sampled_from([1.0, 1.25]),
)
def test_table(
    op_target: Target, data: st.DataObject, phase: str, rotary_dim: int, theta: float, attention_factor: float
) -> None:
    start = data.draw(st.sampled_from([0, 1, 1000, 131_000]))
    count = data.draw(op_cases.rows_of(phase))
    segments = [Segment(0, start, count)] if phase == "prefill" else [Segment(i, start + i, 1) for i in range(count)]
    batch = Batch.of(phase, segments)
    inv_freq = (theta ** (-np.arange(0, rotary_dim, 2) / rotary_dim)).astype(np.float32)
    rope = Rope(inv_freq, attention_factor=attention_factor)
    want = oracle.rope_table(batch, rope)
    assert_close(ops_api.rope_table(op_target, batch, rope), want.value, ROPE_TABLE, want.scale)


@op_cases.op_settings
@given(
    rotary_dim=st.sampled_from([4, 20, 64, 128]),
    original=st.sampled_from([16, 512, 4096]),
    factor=st.sampled_from([1.0, 2.0, 4.0]),
    seed=op_cases.seeds,
)
def test_dynamic_table_follows_the_length_of_each_row(
    op_target: Target, rotary_dim: int, original: int, factor: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    segments = [Segment(0, 0, 20), Segment(1, original, 3), Segment(2, 3 * original - 2, 5)]
    # Lengths on both sides of the original context, not tied to the positions.
    lens = rng.choice([1, original - 1, original, original + 1, 2 * original, 9 * original], 28)
    batch = Batch.of("prefill", segments, rope_lens=lens)
    inv_freq = (10000.0 ** (-np.arange(0, rotary_dim, 2) / rotary_dim)).astype(np.float32)
    rope = Rope(inv_freq, dynamic=True, theta=10000.0, factor=factor, original_max_seq_len=original)
    want = oracle.rope_table(batch, rope)
    assert_close(ops_api.rope_table(op_target, batch, rope), want.value, ROPE_TABLE_DYNAMIC, want.scale)
