"""choose_scales: the scales that the loader gives to groups of int8 weights."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import op_cases
import ops_api
import oracle
from ops_types import NUMPY_DTYPES

GROUP_SIZES = st.sampled_from([0, 32, 64, 128, 256])


@op_cases.op_settings
@given(
    n=st.integers(1, 40),
    k=op_cases.FEATURES,
    group_size=GROUP_SIZES,
    dtype=st.sampled_from(list(NUMPY_DTYPES)),
    weighted=st.booleans(),
    seed=op_cases.seeds,
)
def test_scales_are_the_best_of_the_candidates(
    n: int, k: int, group_size: int, dtype: str, weighted: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Rows of very different size, and groups of zeros: scales from zero over subnormal to large.
    weight = rng.normal(size=(n, k)) * np.exp2(rng.uniform(-30, 8, (n, 1)))
    weight[rng.random((n, k)) < rng.choice([0, 0.3, 1], (n, 1), p=[0.6, 0.3, 0.1])] = 0
    weight = weight.astype(np.float32).astype(NUMPY_DTYPES[dtype])
    importance = np.exp2(rng.uniform(-6, 6, k)).astype(np.float32) if weighted else None
    want = oracle.choose_scales(weight, group_size, importance)
    np.testing.assert_array_equal(ops_api.choose_scales(weight, group_size, importance), want)


@op_cases.op_settings
@given(n=st.integers(1, 10), k=op_cases.FEATURES, group_size=GROUP_SIZES, seed=op_cases.seeds)
def test_weights_that_are_int8_times_a_scale_stay_exact(n: int, k: int, group_size: int, seed: int) -> None:
    weight = op_cases.random_weight(np.random.default_rng(seed), n, k, "float32")
    quantized = oracle.quantize(weight, group_size)
    exact = oracle.dequantize(quantized, group_size).astype(np.float32)
    np.testing.assert_array_equal(ops_api.choose_scales(exact, group_size), quantized.scales)


def test_the_error_of_important_inputs_is_smaller() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(500, 128)).astype(np.float32)
    importance = np.where(np.arange(128) == 5, 1000, 1).astype(np.float32)
    errors = []
    for scales in (ops_api.choose_scales(weight, 128), ops_api.choose_scales(weight, 128, importance)):
        rounded = oracle.dequantize(oracle.quantize(weight, 128, scales), 128)
        errors.append(np.mean(np.square(rounded - weight)[:, 5]))
    assert errors[1] < errors[0] / 2


def test_values_that_cannot_be_stored_do_no_harm() -> None:
    # load_linear refuses them; the search that comes first must only end.
    weight = np.ones((4, 128), np.float32)
    weight[0, 3], weight[1, 4], weight[2, 5] = np.nan, np.inf, 3e38
    scales = ops_api.choose_scales(weight, 128)
    assert np.isinf(scales[1:3]).all()
    assert scales[3] == np.float32(np.float16(1 / 127))
