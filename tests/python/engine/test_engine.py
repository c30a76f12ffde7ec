"""The engine: scheduling, batching, limits, threads, cancellation. On a small random model, on every device."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import tinyllm
from reference import DATA
from tinyllm import GenerationConfig, KVCacheConfig
from tinyllm._native import engine as native

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = DATA / "smollm2"  # has a tokenizer; hidden 72: no multiple of any group size
CACHE = KVCacheConfig(max_batch_size=3, max_seq_len=160)


@pytest.fixture(scope="module")
def model(device: str) -> Iterator[tinyllm.Model]:
    with tinyllm.load(MODEL, device=device, kv_cache=CACHE) as loaded:
        yield loaded


def prompts(model: tinyllm.Model, lengths: list[int], seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, model.config.vocab_size, n).tolist() for n in lengths]


SAMPLED: dict[str, Any] = {"temperature": 1.0, "top_p": 0.95, "repetition_penalty": 1.2, "seed": 11, "ignore_eos": True}


@pytest.mark.parametrize("settings", [{"ignore_eos": True}, SAMPLED], ids=["greedy", "sampled"])
def test_a_batch_gives_what_each_prompt_gives_alone(model: tinyllm.Model, settings: dict[str, Any]) -> None:
    inputs = prompts(model, [1, 63, 64, 65, 100, 7, 30])
    together = model.generate(inputs, max_new_tokens=20, **settings)
    alone = [model.generate(one, max_new_tokens=20, **settings) for one in inputs]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert all(r.stats.generated_tokens == 20 and r.finish_reason == "length" for r in together)


def test_chunks_do_not_change_tokens(model: tinyllm.Model) -> None:
    (prompt,) = prompts(model, [130])
    expected = model.generate(prompt, max_new_tokens=20, **SAMPLED).token_ids
    for rows in (1, 16, 65):
        with tinyllm.load(MODEL, device=model.device, kv_cache=CACHE, max_step_tokens=rows) as chunked:
            assert chunked.generate(prompt, max_new_tokens=20, **SAMPLED).token_ids == expected


def test_recomputing_activations_changes_memory_and_no_bit(model: tinyllm.Model) -> None:
    cache = KVCacheConfig(max_batch_size=1, max_seq_len=1024)
    (prompt,) = prompts(model, [700])
    with (
        tinyllm.load(MODEL, device=model.device, kv_cache=cache, max_step_tokens=1024) as plain,
        tinyllm.load(
            MODEL, device=model.device, kv_cache=cache, max_step_tokens=1024, recompute_activations=True
        ) as recomputing,
    ):
        np.testing.assert_array_equal(plain.logits(prompt), recomputing.logits(prompt))
        assert recomputing.memory().actual["activations"] < plain.memory().actual["activations"]


def test_logits_of_a_prefix_are_the_prefix_of_the_logits(model: tinyllm.Model) -> None:
    (prompt,) = prompts(model, [97])
    whole = model.logits(prompt)
    assert whole.shape == (97, model.config.vocab_size)
    assert whole.dtype == np.float32
    for length in (1, 64, 65):
        np.testing.assert_array_equal(model.logits(prompt[:length]), whole[:length])


def test_generation_ends_at_the_context_with_reason_length(model: tinyllm.Model) -> None:
    (prompt,) = prompts(model, [CACHE.max_seq_len - 4])
    result = model.generate(prompt, ignore_eos=True)
    assert (result.finish_reason, result.stats.generated_tokens) == ("length", 5)
    (full,) = prompts(model, [CACHE.max_seq_len])
    assert model.generate(full, ignore_eos=True).stats.generated_tokens == 1


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(model: tinyllm.Model) -> None:
    (prompt,) = prompts(model, [CACHE.max_seq_len + 1])
    with pytest.raises(ValueError, match=r"161 tokens.* 160"):
        model.generate(prompt)
    with pytest.raises(ValueError, match=r"161 tokens.* 160"):
        model.logits(prompt)


def test_wrong_prompts_are_refused(model: tinyllm.Model) -> None:
    vocab = model.config.vocab_size
    with pytest.raises(ValueError, match=rf"token id {vocab} at position 1 is outside the vocabulary of {vocab}"):
        model.generate([0, vocab])
    for wide in (2**31, -(2**31), 2**32 + 1, 2**70):
        for call in (model.generate, model.stream, model.logits):
            with pytest.raises(ValueError, match=f"token id {wide} at position 1"):
                call([0, wide])
    with pytest.raises(ValueError, match="at least one"):
        model.generate("")
    for prompt in ([[1.5]], [True, False]):
        with pytest.raises(TypeError, match="flat list of integers"):
            model.generate(prompt)
    with pytest.raises(TypeError, match="prompt must be"):
        model.generate(3)
    assert model.generate([]) == []
    assert model.generate([1, 2], max_new_tokens=1).finish_reason in ("stop", "length")


def test_more_requests_than_pages_wait_and_none_is_lost(device: str) -> None:
    # 3 pages of 64 tokens for sequences of up to 160 tokens: one long or three short ones at a time.
    cache = KVCacheConfig(max_batch_size=4, max_seq_len=160, num_pages=3)
    with tinyllm.load(MODEL, device=device, kv_cache=cache) as small:
        inputs = prompts(small, [120, 10, 20, 30, 140, 5, 6, 7])
        results = small.generate(inputs, max_new_tokens=12, ignore_eos=True)
        assert [r.stats.generated_tokens for r in results] == [12] * len(inputs)
        assert [r.stats.prompt_tokens for r in results] == [len(one) for one in inputs]
        assert small.memory().kv_pages_free == small.memory().kv_pages == 3


def test_cancelling_frees_pages_and_the_rest_goes_on(model: tinyllm.Model) -> None:
    first, second = prompts(model, [50, 60])
    expected = model.generate(second, max_new_tokens=10, ignore_eos=True).token_ids
    free = model.memory().kv_pages_free
    stream = model.stream(first, ignore_eos=True)
    next(stream)
    assert model.memory().kv_pages_free < free
    result = model.generate(second, max_new_tokens=10, ignore_eos=True)
    stream.close()
    assert result.token_ids == expected
    assert model.memory().kv_pages_free == free


def test_threads_share_a_model(model: tinyllm.Model) -> None:
    inputs = prompts(model, [5, 40, 70, 90, 100, 3])
    expected = [model.generate(one, max_new_tokens=15, **SAMPLED).token_ids for one in inputs]
    barrier = threading.Barrier(len(inputs))

    def run(prompt: list[int]) -> list[int]:
        barrier.wait()
        return model.generate(prompt, max_new_tokens=15, **SAMPLED).token_ids

    with ThreadPoolExecutor(len(inputs)) as pool:
        assert list(pool.map(run, inputs)) == expected


def test_a_seed_gives_the_same_tokens_and_no_seed_gives_others(model: tinyllm.Model) -> None:
    (prompt,) = prompts(model, [10])
    settings = {"temperature": 2.0, "max_new_tokens": 30, "ignore_eos": True}
    first = model.generate(prompt, seed=1, **settings).token_ids
    model.generate(prompts(model, [33])[0], seed=5, **settings)
    assert model.generate(prompt, seed=1, **settings).token_ids == first
    assert model.generate(prompt, seed=2, **settings).token_ids != first
    assert model.generate(prompt, **settings).token_ids != model.generate(prompt, **settings).token_ids


def test_logprobs_are_those_of_the_logits(model: tinyllm.Model) -> None:
    (prompt,) = prompts(model, [12])
    result = model.generate(prompt, max_new_tokens=8, logprobs=True, temperature=1.5, seed=3, ignore_eos=True)
    logits = model.logits(prompt + result.token_ids)[len(prompt) - 1 : -1].astype(np.float64)
    expected = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    expected -= logits.max(1, keepdims=True)
    chosen = expected[np.arange(8), result.token_ids]
    np.testing.assert_allclose(result.logprobs, chosen, atol=0.05)
    assert model.generate(prompt, max_new_tokens=2).logprobs is None


def test_a_thousand_random_requests_leave_no_page_and_no_byte(device: str) -> None:
    live_before = native.library().tl_debug_live_bytes()
    with tinyllm.load(MODEL, device=device, kv_cache=KVCacheConfig(max_batch_size=4, max_seq_len=96)) as small:
        before = small.memory()
        rng = np.random.default_rng(7)
        inputs = prompts(small, rng.integers(1, 20, 1000).tolist(), seed=8)
        results = small.generate(inputs, max_new_tokens=3, temperature=1.0, seed=1, ignore_eos=True)
        assert len(results) == 1000
        assert all(r.stats.generated_tokens == 3 for r in results)
        assert small.memory().kv_pages_free == small.memory().kv_pages
        # Nothing was even allocated and given back on the way.
        assert small.memory().tracked == before.tracked
    assert native.library().tl_debug_live_bytes() == live_before


def test_close_gives_everything_back_and_later_calls_say_so(device: str) -> None:
    live_before = native.library().tl_debug_live_bytes()
    closed = tinyllm.load(MODEL, device=device)
    stream = closed.stream([1, 2, 3])
    next(stream)
    closed.close()
    closed.close()
    assert native.library().tl_debug_live_bytes() == live_before
    for call in (lambda: closed.generate([1]), lambda: closed.logits([1]), closed.memory, lambda: next(stream)):
        with pytest.raises(tinyllm.TinyllmError, match="closed"):
            call()
    assert "closed" in repr(closed)


def test_settings_are_checked(model: tinyllm.Model) -> None:
    for settings, words in (
        ({"temperatur": 1.0}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop": [""]}, "stop"),
        ({"config": {"top_k": 1}}, "GenerationConfig"),
    ):
        with pytest.raises(ValueError, match=words):
            model.generate([1], **settings)
    config = GenerationConfig(max_new_tokens=4, ignore_eos=True)
    assert model.generate([1], config).stats.generated_tokens == 4
    assert model.generate([1], config, max_new_tokens=2).stats.generated_tokens == 2


def test_every_failing_allocation_is_an_error_that_leaves_nothing(device: str) -> None:
    library = native.library()
    live_before = library.tl_debug_live_bytes()
    countdown = 0
    while True:
        countdown += 1
        library.tl_debug_fail_allocation(countdown)
        try:
            with tinyllm.load(DATA / "llama2", device=device):
                break
        except tinyllm.OutOfMemoryError:
            assert library.tl_debug_live_bytes() == live_before
        finally:
            library.tl_debug_fail_allocation(0)
    assert countdown > 10
    assert library.tl_debug_live_bytes() == live_before


def test_what_does_not_fit_is_refused_before_allocating(device: str) -> None:
    live_before = native.library().tl_debug_live_bytes()
    wanted = KVCacheConfig(max_batch_size=64, max_seq_len=1 << 24)
    with pytest.raises(tinyllm.OutOfMemoryError, match=r"needs \d+ bytes.*weights.*kv_cache") as refusal:
        tinyllm.load(MODEL, device=device, kv_cache=wanted)
    assert native.library().tl_debug_live_bytes() == live_before
    numbers = re.search(
        r"only (\d+) bytes .* would fit: (\d+) tokens at batch 64, or 16777216 tokens at batch (\d+)$",
        str(refusal.value),
    )
    assert numbers is not None, refusal.value
    free, seq_len, batch = map(int, numbers.groups())
    if device == "cpu":  # on a GPU `plan` also counts what the driver takes, of which `load` has the fact
        planned = tinyllm.plan(MODEL, device, kv_cache=wanted)
        assert planned.max_seq_len(free) == seq_len
        assert planned.max_batch(free) == batch


def test_free_memory_is_less_what_engines_have_not_written_yet() -> None:
    free = tinyllm.devices()[0].free
    with tinyllm.load(MODEL, device="cpu", kv_cache=KVCacheConfig(64, 1 << 17)) as model:
        cache = model.memory().actual["kv_cache"]
        assert cache > 1 << 30
        assert tinyllm.devices()[0].free < free - 0.9 * cache  # though the system has not given a page of it yet
    assert tinyllm.devices()[0].free > free - 0.1 * cache


def test_plan_equals_fact(model: tinyllm.Model) -> None:
    report = model.memory()
    assert report.actual == report.planned
    assert report.planned_total == sum(entry.bytes for entry in report.entries)
    assert report.peak >= report.actual_total
    assert report.tracked_total.live == len(report.entries)
    for name, tracked in report.tracked.items():
        assert tracked.live == sum(entry.component == name for entry in report.entries)
        assert tracked.allocations >= tracked.live
        assert tracked.allocated >= tracked.peak >= tracked.bytes
    assert sum(tracked.allocations for tracked in report.tracked.values()) == report.tracked_total.allocations
    assert 0 < report.free <= report.total
