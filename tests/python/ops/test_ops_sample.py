"""The sample op: random numbers, filters, draws, log-probabilities, and the independence of its rows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import op_cases
import ops_api
import oracle_sampling
from ops_types import SAMPLE_PARAMS, Batch, Target
from tolerances import LOGPROBS, SCORES, assert_close

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Both sides of a word of `seen`, of a warp, of a block and of the small cases; two real vocabularies.
VOCABS = st.one_of(st.sampled_from([1, 2, 31, 32, 33, 1000, 1024, 1025, 49152, 128_256]), st.integers(1, 3000))


def params_of(rows: int, **fields: object) -> NDArray:
    """SAMPLE_PARAMS [rows] of plain sampling at temperature 1, slots in order, with `fields` set."""
    params = np.zeros(rows, SAMPLE_PARAMS)
    params["slot"] = np.arange(rows)
    for name in ("temperature", "top_p", "repetition_penalty"):
        params[name] = 1
    for name, value in fields.items():
        params[name] = value
    return params


@dataclass(frozen=True)
class Case:
    target: Target
    logits: NDArray[np.float32]  # [rows, vocab]
    params: NDArray  # SAMPLE_PARAMS [rows]
    seen: NDArray[np.bool_]  # [rows, vocab]; a row's slot is its index

    def run(self, rows: Sequence[int]) -> NDArray:
        """SAMPLED_TOKEN of some of the rows."""
        batch = Batch.of_rows("decode", len(self.logits)).take(rows)
        return ops_api.sample(
            self.target, batch, self.logits[list(rows)], self.params[list(rows)], ops_api.pack_seen(self.seen)
        )


def draw_case(data: st.DataObject, target: Target) -> Case:
    rng = np.random.default_rng(data.draw(op_cases.seeds))
    vocab = data.draw(VOCABS)
    rows = data.draw(st.integers(1, 8 if vocab > 3000 else 20))
    # Offsets change nothing but the repetition penalty, which tells positive logits from negative ones.
    logits = rng.normal(rng.choice([0, -8, 8], (rows, 1)), rng.choice([0.5, 3, 10], (rows, 1)), (rows, vocab))
    if data.draw(st.booleans()):
        logits = np.round(logits)  # many ties
    params = params_of(rows)
    params["seed"] = rng.integers(0, 2**64, rows, np.uint64)
    params["position"] = rng.integers(0, 2**17, rows)
    params["temperature"] = rng.choice([0, 0.3, 1, 2], rows)
    params["top_k"] = rng.choice([0, 1, 2, 40, 2000, vocab, vocab + 1], rows)
    params["top_p"] = rng.choice([1, 1, 0.95, 0.5, 1e-3], rows)
    params["min_p"] = rng.choice([0, 0, 0.05, 0.5, 1], rows)
    params["repetition_penalty"] = rng.choice([1, 1, 1.3, 0.5], rows)
    params["logprobs"] = rng.integers(0, 2, rows)
    return Case(target, logits.astype(np.float32), params, rng.random((rows, vocab)) < 0.4)


@op_cases.op_settings
@given(seed=st.integers(0, 2**64 - 1), counter0=op_cases.seeds, counter1=op_cases.seeds)
def test_random_numbers(seed: int, counter0: int, counter1: int) -> None:
    words, noise = ops_api.philox(seed, counter0, counter1)
    want = oracle_sampling.philox4x32_10(seed, np.array([counter0, counter1, 0, 0], np.uint32))
    assert words.tolist() == want.tolist()
    assert_close(noise, oracle_sampling.gumbel_of_words(want), SCORES)


def test_philox_known_answers() -> None:
    """Vectors of Random123's kat_vectors file for philox4x32 with 10 rounds, as far as two counter words reach."""
    assert oracle_sampling.philox4x32_10(0, np.zeros(4, np.uint32)).tolist() == [
        0x6627E8D5,
        0xE169C58D,
        0xBC57AC4C,
        0x9B00DBD8,
    ]
    assert oracle_sampling.philox4x32_10(2**64 - 1, np.full(4, 2**32 - 1, np.uint32)).tolist() == [
        0x408F276D,
        0x41C83B0E,
        0xA20BC7C6,
        0x6D5451FD,
    ]


@op_cases.op_settings
@given(data=st.data())
def test_token_is_one_that_the_definition_allows(op_target: Target, data: st.DataObject) -> None:
    case = draw_case(data, op_target)
    sampled = case.run(range(len(case.logits)))
    for row, params in enumerate(case.params):
        allowed = oracle_sampling.allowed_samples(case.logits[row], case.seen[row], params, SCORES.rtol)
        token = sampled["token_id"][row]
        assert 0 <= token < len(allowed)
        assert allowed[token], f"row {row}: token {token}, expected one of {np.flatnonzero(allowed)[:10]} for {params}"


@op_cases.op_settings
@given(data=st.data())
def test_rows_are_independent(op_target: Target, data: st.DataObject) -> None:
    case = draw_case(data, op_target)
    rows = op_cases.some_rows(data, Batch.of_rows("decode", len(case.logits)))
    assert case.run(rows).tobytes() == case.run(range(len(case.logits)))[rows].tobytes()


@op_cases.op_settings
@given(data=st.data())
def test_logprob_is_of_the_raw_logits(op_target: Target, data: st.DataObject) -> None:
    case = draw_case(data, op_target)
    sampled = case.run(range(len(case.logits)))
    asked = case.params["logprobs"] == 1
    assert np.isnan(sampled["logprob"][~asked]).all()
    want = [
        oracle_sampling.log_softmax(row)[token] for row, token in zip(case.logits, sampled["token_id"], strict=True)
    ]
    assert_close(sampled["logprob"][asked], np.array(want)[asked], LOGPROBS)


# Sides of what the GPU's passes take at a time: 4 tokens a load, 32,768 a pass of one kernel, 131,072 of another.
@pytest.mark.slow
@pytest.mark.parametrize("vocab", [32_767, 32_768, 32_769, 131_071, 131_072, 131_073, 151_936])
def test_large_vocabularies(op_target: Target, vocab: int) -> None:
    """One row of each kind: greedy, plain, top-k, top-p, both, min-p; with and without penalty."""
    rng = np.random.default_rng(vocab)
    params = params_of(6, seed=9, position=vocab, logprobs=1)
    params["temperature"] = [0, 1, 0.7, 1, 1.5, 1]
    params["top_k"] = [0, 0, 40, 0, 2000, 0]
    params["top_p"] = [1, 1, 1, 0.9, 0.8, 1]
    params["min_p"] = [0, 0, 0, 0, 0, 0.05]
    params["repetition_penalty"] = [1, 1.2, 1, 1.2, 1, 1.2]
    logits = rng.normal(0, 3, (6, vocab)).astype(np.float32)
    case = Case(op_target, logits, params, rng.random((6, vocab)) < 0.1)
    sampled = case.run(range(6))
    for row in range(6):
        allowed = oracle_sampling.allowed_samples(logits[row], case.seen[row], params[row], SCORES.rtol)
        assert allowed[sampled["token_id"][row]], f"row {row}: token {sampled['token_id'][row]}"
        assert case.run([row]).tobytes() == sampled[[row]].tobytes()
    want = [oracle_sampling.log_softmax(row)[token] for row, token in zip(logits, sampled["token_id"], strict=True)]
    assert_close(sampled["logprob"], want, LOGPROBS)


@op_cases.op_settings
@given(vocab=VOCABS, rows=st.integers(1, 8), seed=op_cases.seeds)
def test_plain_greedy_takes_the_first_maximum(op_target: Target, vocab: int, rows: int, seed: int) -> None:
    logits = np.round(np.random.default_rng(seed).normal(0, 2, (rows, vocab))).astype(np.float32)
    sampled = ops_api.sample(op_target, Batch.of_rows("decode", rows), logits, params_of(rows, temperature=0))
    assert sampled["token_id"].tolist() == logits.argmax(axis=1).tolist()
    assert np.isnan(sampled["logprob"]).all()


@given(seed=op_cases.seeds)
def test_filters_keep_what_they_should(op_target: Target, seed: int) -> None:
    """Many draws from one small vocabulary: all that is kept is drawn sooner or later, and nothing else."""
    rng = np.random.default_rng(seed)
    draws, vocab, temperature = 500, rng.integers(2, 25), rng.choice([0.7, 1.5])
    top_k, top_p, min_p = (rng.choice(c) for c in ([0, 0, 1, 3, 8, 12], [1, 0.97, 0.9, 0.7, 0.2], [0, 0, 0.1, 0.5]))
    logits = rng.normal(size=vocab).astype(np.float32)
    position = np.arange(draws)
    params = params_of(
        draws, seed=seed, position=position, slot=0, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )
    sampled = ops_api.sample(op_target, Batch.of_rows("decode", draws), np.tile(logits, (draws, 1)), params)
    drawn = np.bincount(sampled["token_id"], minlength=vocab) > 0
    first = params[0]  # as float32, like the op
    scaled = logits / np.float64(first["temperature"])
    kept = oracle_sampling.kept_tokens(scaled, top_k, float(first["top_p"]), float(first["min_p"]))
    assert not (drawn & ~kept.perhaps).any()
    # Tokens expected 30 times or more are missed with probability e^-30.
    expected = draws * np.exp(scaled) / np.exp(scaled)[kept.perhaps].sum()
    assert drawn[kept.surely & (expected >= 30)].all()


def test_draws_follow_the_softmax(op_target: Target) -> None:
    """Chi-squared over 4000 positions of one request; the limit is exceeded with probability 1e-6."""
    draws, logits = 4000, np.array([0.5, -1, 2, 0, 1.2, -3], np.float32)
    params = params_of(draws, seed=7, position=np.arange(draws), slot=0, temperature=1.5)
    sampled = ops_api.sample(op_target, Batch.of_rows("decode", draws), np.tile(logits, (draws, 1)), params)
    counts = np.bincount(sampled["token_id"], minlength=len(logits))
    expected = draws * np.exp(oracle_sampling.log_softmax(logits / 1.5))
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 35.9, "the 1 - 1e-6 quantile for 5 degrees of freedom"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_padding_rows_may_hold_anything(op_target: Target, temperature: float) -> None:
    """Logits of padding rows come from undefined activations; they disturb no other row."""
    logits = np.random.default_rng(5).normal(size=(4, 300)).astype(np.float32)
    params = params_of(4, temperature=temperature, position=9, logprobs=temperature > 0)
    want = ops_api.sample(op_target, Batch.of_rows("decode", 4), logits, params)
    logits[[1, 3]] = np.nan
    params["slot"][[1, 3]] = -1
    params["temperature"][[1, 3]] = params["logprobs"][[1, 3]] = 0
    got = ops_api.sample(op_target, Batch.of_rows("decode", 4), logits, params)
    assert got[[0, 2]].tobytes() == want[[0, 2]].tobytes()


@pytest.mark.parametrize("vocab", [300, 301, 5003])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("logprobs", [0, 1])
def test_rows_that_are_not_finite_give_no_token(
    op_target: Target, vocab: int, temperature: float, logprobs: int
) -> None:
    """NaN of either sign and +infinity anywhere, or nothing above -infinity; other rows are as without them."""
    bad = [np.nan, -np.nan, np.inf]
    places = [0, vocab // 2, vocab - 1]
    rows = 2 * len(bad) * len(places) + 2
    logits = np.random.default_rng(6).normal(size=(rows, vocab)).astype(np.float32)
    params = params_of(rows, temperature=temperature, position=9, logprobs=logprobs)
    params["top_k"][::3], params["top_p"][::4] = 20, 0.9
    want = ops_api.sample(op_target, Batch.of_rows("decode", rows), logits, params)
    broken = list(range(1, rows, 2))
    for row, (value, place) in zip(broken, itertools.product(bad, places), strict=False):
        logits[row, place] = value
    logits[broken[-1]] = -np.inf
    got = ops_api.sample(op_target, Batch.of_rows("decode", rows), logits, params)
    assert (got["token_id"][broken] == -1).all()
    assert np.isnan(got["logprob"][broken]).all()
    assert got[::2].tobytes() == want[::2].tobytes()
    logits[0] = -np.inf  # one finite logit is enough
    logits[0, vocab // 2] = -5
    assert ops_api.sample(op_target, Batch.of_rows("decode", rows), logits, params)["token_id"][0] == vocab // 2
