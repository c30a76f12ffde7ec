"""The second moments that Backend::load_linear computes on the way: those of the definition, to the bit."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import op_cases
import ops_api
import oracle
from ops_types import NUMPY_DTYPES, Target


@op_cases.op_settings
@given(n=st.integers(1, 200), k=op_cases.FEATURES, dtype=st.sampled_from(list(NUMPY_DTYPES)), seed=op_cases.seeds)
def test_moments_are_met_exactly(op_target: Target, n: int, k: int, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = (op_cases.random_weight(rng, n, k) * np.exp2(rng.uniform(-8, 8, (n, 1)))).astype(NUMPY_DTYPES[dtype])
    inputs = np.exp2(rng.uniform(-20, 20, k)).astype(np.float32)
    outputs, columns = ops_api.second_moments(op_target, weight, inputs)
    want_outputs, want_columns = oracle.second_moments(weight, inputs)
    np.testing.assert_array_equal(outputs, want_outputs)
    np.testing.assert_array_equal(columns, want_columns)
