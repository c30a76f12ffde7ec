"""Backend::fill_random: the same made-up weights on every device, of a size that keeps activations finite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import op_cases
import ops_api
import oracle
from ops_types import Target, rounded
from tinyllm.config import QuantizationType


def scale_of(k: int) -> np.float32:
    """random_weight_scale of native/quantization/random_weights.h."""
    return rounded(np.float32(1) / (np.float32(73.9) * np.sqrt(np.float32(k))), "float16")


@op_cases.op_settings
@given(n=st.integers(1, 40), k=op_cases.FEATURES, group_size=st.sampled_from([0, 32, 128]), seed=op_cases.seeds)
def test_w8a16_weights_are_those_of_the_definition(
    op_target: Target, n: int, k: int, group_size: int, seed: int
) -> None:
    values, scales = ops_api.fill_random(replace(op_target, group_size=group_size), n, k, seed)
    np.testing.assert_array_equal(values, oracle.random_weight(n, k, seed))
    np.testing.assert_array_equal(scales, np.full_like(scales, scale_of(k)))


@op_cases.op_settings
@given(data=st.data(), n=st.integers(1, 40), k=op_cases.FEATURES, seed=op_cases.seeds)
def test_unquantised_weights_are_the_same_ones(
    op_target: Target, data: st.DataObject, n: int, k: int, seed: int
) -> None:
    dtype = data.draw(st.sampled_from(op_cases.activation_types(op_target)))
    target = replace(op_target, dtype=dtype, quantization=QuantizationType.NONE)
    values, _ = ops_api.fill_random(target, n, k, seed)
    np.testing.assert_array_equal(values, target.round(oracle.random_weight(n, k, seed) * scale_of(k)))


def test_variance_is_one_over_k_and_nothing_is_zero(op_target: Target) -> None:
    values, scales = ops_api.fill_random(op_target, 300, 1024, 5)
    assert np.abs(values).min() > 0
    assert np.var(values * scales[0, 0]) == pytest.approx(1 / 1024, rel=0.01)
    assert np.mean(values) == pytest.approx(0, abs=1)
    other, _ = ops_api.fill_random(op_target, 300, 1024, 6)
    assert np.mean(values == other) < 0.01
