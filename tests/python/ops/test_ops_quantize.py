"""Backend::load_linear: what is stored is exactly what the definition of W8A16 (or rounding to T) gives."""

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
from tinyllm.config import QuantizationType


@op_cases.op_settings
@given(
    data=st.data(),
    n=st.integers(1, 40),
    k=op_cases.FEATURES,
    group_size=st.sampled_from([0, 32, 64, 128, 256]),
    dtype=st.sampled_from(list(NUMPY_DTYPES)),
    seed=op_cases.seeds,
)
def test_w8a16_is_met_exactly(
    op_target: Target, data: st.DataObject, n: int, k: int, group_size: int, dtype: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    target = replace(
        op_target, dtype=data.draw(st.sampled_from(op_cases.activation_types(op_target))), group_size=group_size
    )
    # Rows of very different size, and some groups of zeros: scales from zero over subnormal to large.
    weight = rng.normal(size=(n, k)) * np.exp2(rng.uniform(-30, 8, (n, 1)))
    weight[rng.random((n, k)) < rng.choice([0, 0.3, 1], (n, 1), p=[0.6, 0.3, 0.1])] = 0
    weight = weight.astype(np.float32).astype(NUMPY_DTYPES[dtype])
    values, scales, first_bad = ops_api.load_linear(target, weight)
    want = oracle.quantize(weight, group_size)
    assert first_bad == -1
    np.testing.assert_array_equal(scales, want.scales)
    held = np.repeat(scales > 0, group_size or k, axis=1)[:, :k]  # weights under a scale of 0 may be any number
    np.testing.assert_array_equal(np.where(held, values, 0), np.where(held, want.values, 0))


@op_cases.op_settings
@given(scale=st.floats(2.0**-14, 60000, width=16))
def test_halves_round_to_even(op_target: Target, scale: float) -> None:
    # 127 and a half times 11 bits are exact in float32, so the quotients are exact halves, whatever the scale. Only a
    # true division finds them all.
    quotients = np.arange(-127, 127.5, 0.5, dtype=np.float32)
    values, scales, _ = ops_api.load_linear(replace(op_target, group_size=0), quotients[None] * np.float32(scale))
    assert scales.tolist() == [[scale]]
    np.testing.assert_array_equal(values[0], np.rint(quotients))


def test_scale_rounded_down_is_clamped(op_target: Target) -> None:
    # The smallest float16 above 0 as a scale is 1.5 times too small here: quotients of 190 must stop at 127.
    weight = np.array([[127 * 1.4 * 2.0**-24, -127 * 1.4 * 2.0**-24, 0]], np.float32)
    values, scales, _ = ops_api.load_linear(op_target, weight)
    assert scales.tolist() == [[2.0**-24]]
    assert values.tolist() == [[127, -127, 0]]


@op_cases.op_settings
@given(
    data=st.data(),
    n=st.integers(1, 40),
    k=op_cases.FEATURES,
    dtype=st.sampled_from(list(NUMPY_DTYPES)),
    seed=op_cases.seeds,
)
def test_unquantised_weights_are_rounded_once(
    op_target: Target, data: st.DataObject, n: int, k: int, dtype: str, seed: int
) -> None:
    target = replace(
        op_target,
        dtype=data.draw(st.sampled_from(op_cases.activation_types(op_target))),
        quantization=QuantizationType.NONE,
    )
    weight = op_cases.random_weight(np.random.default_rng(seed), n, k, dtype)
    values, _, first_bad = ops_api.load_linear(target, weight)
    assert first_bad == -1
    np.testing.assert_array_equal(values, target.round(weight))


@pytest.mark.parametrize("quantization", list(QuantizationType))
@op_cases.op_settings
@given(
    dtype=st.sampled_from(list(NUMPY_DTYPES)),
    bad=st.sampled_from([np.nan, -np.nan, np.inf, -np.inf]),
    n=st.integers(1, 20),
    k=op_cases.FEATURES,
    seed=op_cases.seeds,
)
def test_first_value_that_is_not_finite_is_named(
    op_target: Target, quantization: QuantizationType, dtype: str, bad: float, n: int, k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    target = replace(op_target, quantization=quantization)
    weight = op_cases.random_weight(rng, n, k, dtype)
    places = rng.choice(n * k, min(3, n * k), replace=False)
    weight.reshape(-1)[places] = bad
    for search_scales in (False, True):
        assert ops_api.load_linear(target, weight, search_scales=search_scales)[2] == places.min()


@pytest.mark.parametrize("search_scales", [False, True])
def test_group_whose_scale_overflows_is_named(op_target: Target, search_scales: bool) -> None:
    weight = np.ones((3, 200), np.float32)
    weight[1, 150] = 127 * 65520.0  # the scale rounds to infinity in float16
    _, _, first_bad = ops_api.load_linear(op_target, weight, search_scales=search_scales)
    assert 200 + 128 <= first_bad < 2 * 200, "an index of the second group of row 1"
    weight[1, 150] = 127 * 65504.0
    assert ops_api.load_linear(op_target, weight, search_scales=search_scales)[2] == -1


def test_unquantised_value_beyond_the_type_is_named(op_target: Target) -> None:
    target = replace(op_target, dtype="float16", quantization=QuantizationType.NONE)
    weight = np.ones((2, 70), np.float32)
    weight[1, 3] = 65520.0  # rounds to infinity
    assert ops_api.load_linear(target, weight)[2] == 73
    weight[1, 3] = 65519.0
    assert ops_api.load_linear(target, weight)[2] == -1


@pytest.mark.parametrize("dtype", list(NUMPY_DTYPES))
@pytest.mark.parametrize("quantization", list(QuantizationType))
def test_checkpoint_memory_may_be_unaligned(op_target: Target, quantization: QuantizationType, dtype: str) -> None:
    target = replace(op_target, quantization=quantization)
    weight = op_cases.random_weight(np.random.default_rng(0), 5, 300, dtype)
    shifted = np.zeros(weight.nbytes + 1, np.uint8)[1:].view(weight.dtype).reshape(weight.shape)
    shifted[:] = weight
    assert not shifted.flags.aligned
    for got, want in zip(ops_api.load_linear(target, shifted), ops_api.load_linear(target, weight), strict=True):
        np.testing.assert_array_equal(got, want)
