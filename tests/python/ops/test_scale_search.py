"""The scales that are searched for groups of int8 weights: those of the definition, to the bit, on each device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import op_cases
import ops_api
import oracle
from ops_types import NUMPY_DTYPES, Target

GROUP_SIZES = [0, 32, 64, 128, 256]


def importance_of(kind: str, k: int, rng: np.random.Generator) -> np.ndarray | None:
    """Importance [k] of a kind: every input alike, spread over orders of magnitude, zeros, or close to overflow."""
    if kind == "none":
        return None
    if kind == "zero":
        return np.zeros(k, np.float32)
    if kind == "huge":
        return rng.choice([1e-30, 1, 3e38], k).astype(np.float32)
    return np.where(rng.random(k) < 0.1, 0, np.exp2(rng.uniform(-6, 6, k))).astype(np.float32)


def weight_of(n: int, k: int, dtype: str, rng: np.random.Generator) -> np.ndarray:
    """Rows of very different size, and groups of zeros: scales from zero over subnormal to large."""
    weight = rng.normal(size=(n, k)) * np.exp2(rng.uniform(-30, 8, (n, 1)))
    weight[rng.random((n, k)) < rng.choice([0, 0.3, 1], (n, 1), p=[0.6, 0.3, 0.1])] = 0
    return weight.astype(np.float32).astype(NUMPY_DTYPES[dtype])


def check(target: Target, weight: np.ndarray, importance: np.ndarray | None) -> None:
    """Scales and weights of a load are those of the definition."""
    values, scales, first_bad = ops_api.load_linear(target, weight, search_scales=True, importance=importance)
    want = oracle.quantize(weight, target.group_size, oracle.choose_scales(weight, target.group_size, importance))
    assert first_bad == -1
    np.testing.assert_array_equal(scales, want.scales)
    np.testing.assert_array_equal(values, want.values)


@op_cases.op_settings
@given(
    n=st.integers(1, 40),
    k=op_cases.FEATURES,
    group_size=st.sampled_from(GROUP_SIZES),
    dtype=st.sampled_from(list(NUMPY_DTYPES)),
    kind=st.sampled_from(["none", "some", "zero", "huge"]),
    seed=op_cases.seeds,
)
def test_scales_are_the_best_of_the_candidates(
    op_target: Target, n: int, k: int, group_size: int, dtype: str, kind: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    check(replace(op_target, group_size=group_size), weight_of(n, k, dtype, rng), importance_of(kind, k, rng))


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("dtype", list(NUMPY_DTYPES))
@pytest.mark.parametrize("k", [576, 577])
def test_every_group_size_and_type(op_target: Target, group_size: int, dtype: str, k: int) -> None:
    rng = np.random.default_rng(k)
    check(replace(op_target, group_size=group_size), weight_of(40, k, dtype, rng), importance_of("some", k, rng))


@op_cases.op_settings
@given(n=st.integers(1, 10), k=op_cases.FEATURES, group_size=st.sampled_from(GROUP_SIZES), seed=op_cases.seeds)
def test_weights_that_are_int8_times_a_scale_stay_exact(
    op_target: Target, n: int, k: int, group_size: int, seed: int
) -> None:
    weight = op_cases.random_weight(np.random.default_rng(seed), n, k, "float32")
    quantized = oracle.quantize(weight, group_size)
    exact = oracle.dequantize(quantized, group_size).astype(np.float32)
    scales = ops_api.load_linear(replace(op_target, group_size=group_size), exact, search_scales=True)[1]
    np.testing.assert_array_equal(scales, quantized.scales)


def test_groups_about_the_limits_of_float16(op_target: Target) -> None:
    # absmax / 127 from below the smallest float16 to the largest, where factors above 1 overflow.
    sizes = 127 * np.array([2.0**-26, 2.0**-25, 1.1 * 2.0**-25, 2.0**-24, 2.0**-15, 60000, 65504], np.float64)
    weight = (sizes[:, None] * np.random.default_rng(0).uniform(-1, 1, (len(sizes), 128))).astype(np.float32)
    weight[:, 7] = sizes
    check(op_target, weight, None)


def test_the_error_of_important_inputs_is_smaller(op_target: Target) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(500, 128)).astype(np.float32)
    importance = np.where(np.arange(128) == 5, 1000, 1).astype(np.float32)
    errors = []
    for counts in (None, importance):
        scales = ops_api.load_linear(op_target, weight, search_scales=True, importance=counts)[1]
        rounded = oracle.dequantize(oracle.quantize(weight, 128, scales), 128)
        errors.append(np.mean(np.square(rounded - weight)[:, 5]))
    assert errors[1] < errors[0] / 2
