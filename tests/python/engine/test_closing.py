"""Ends that nobody waits for: models closed under calls, streams dropped or never read, steps that fail."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import tinyllm
from python_process import run_program
from reference import DATA
from tinyllm import ClosedError, KVCacheConfig, TextStream
from tinyllm._native.handle import EngineHandle

CLOSED = "this model is closed; load it again"


@pytest.fixture
def model(device: str) -> Iterator[tinyllm.Model]:
    with tinyllm.load(DATA / "smollm2", device=device, kv_cache=KVCacheConfig(2, 256)) as loaded:
        yield loaded


@pytest.fixture
def destroyed() -> list[str]:
    """What `handle` was destroyed with."""
    return []


@pytest.fixture
def handle(destroyed: list[str]) -> EngineHandle:
    return EngineHandle("engine", destroyed.append)


def test_closing_waits_for_the_call_that_runs_and_refuses_others(handle: EngineHandle, destroyed: list[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        with handle.in_use():
            closing = [pool.submit(handle.close) for _ in range(2)]
            while not handle.closed:
                threading.Event().wait(0.001)
            assert destroyed == []
            assert not any(future.done() for future in closing)
        for future in closing:
            future.result()
    assert destroyed == ["engine"]
    with pytest.raises(ClosedError, match=CLOSED), handle.in_use():
        pass
    handle.finalize()
    assert destroyed == ["engine"]


def test_a_finalizer_leaves_an_engine_in_use_to_the_end_of_the_process(
    handle: EngineHandle, destroyed: list[str]
) -> None:
    with handle.in_use():
        handle.finalize()
        assert handle.closed
        with pytest.raises(ClosedError), handle.in_use():
            pass
    assert destroyed == []


def test_a_finalizer_destroys_an_engine_that_is_not_in_use(handle: EngineHandle, destroyed: list[str]) -> None:
    handle.finalize()
    handle.close()
    assert destroyed == ["engine"]


def test_calls_of_other_threads_say_that_the_model_is_closed(device: str) -> None:
    result = run_program("close_under_calls.py", device)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [f"ClosedError: {CLOSED}"]


@pytest.mark.parametrize("folder", ["smollm2", "gguf_llama31_mixed/model.gguf"])
def test_a_closed_model_says_so_whatever_is_asked(folder: str) -> None:
    with tinyllm.load(DATA / folder, device="cpu") as model:
        model.generate([1, 2], max_new_tokens=1)
    calls = [lambda: model.generate([1]), lambda: model.stream([1]), lambda: model.logits([1]), model.memory]
    calls += [lambda: model.generate("a"), lambda: model.stream("a"), lambda: model.tokenizer]
    calls += [lambda: model.generate(["a", [1]]), lambda: model.eos_token_ids]
    calls += [lambda: model.chat([{"role": "user", "content": "a"}])]
    for call in calls:
        with pytest.raises(ClosedError, match=CLOSED):
            call()


def drop(stream: TextStream) -> None:
    """The caller holds no other reference."""


@pytest.mark.parametrize("end", [TextStream.close, drop])
@pytest.mark.parametrize("pieces_read", [0, 1])
@pytest.mark.parametrize("chat", [False, True])
def test_a_stream_that_is_not_read_to_its_end_is_cancelled(
    model: tinyllm.Model,
    end: Callable[[TextStream], None],
    pieces_read: int,
    chat: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if chat:
        stream = model.chat([{"role": "user", "content": "a"}], stream=True, ignore_eos=True)
    else:
        stream = model.stream([1, 2, 3], ignore_eos=True)
    for _ in range(pieces_read):
        next(stream)
    end(stream)
    del stream
    gc.collect()
    assert model._scheduler._queues == {}
    steps = []
    step = model._engine.step
    monkeypatch.setattr(model._engine, "step", lambda: steps.append(None) or step())
    model.generate([1], max_new_tokens=1)
    assert len(steps) == 1, "the cancelled request ran on"
    assert model._engine.pages() == (8, 8)


def test_a_closed_stream_has_ended(model: tinyllm.Model) -> None:
    stream = model.stream([1, 2, 3], ignore_eos=True)
    assert next(stream).finish_reason is None
    stream.close()
    stream.close()
    assert list(stream) == []


def test_a_stream_runs_from_the_call_on_and_checks_its_arguments_there(model: tinyllm.Model) -> None:
    with pytest.raises(ValueError, match="outside the vocabulary"):
        model.stream([10**6])
    streams = [model.stream([1, 2, 3], max_new_tokens=5, ignore_eos=True) for _ in range(4)]
    assert len(list(streams[3])) == 5
    assert model._engine.pages() == (8, 8), "the others ended on the way"
    assert [len(list(stream)) for stream in streams[:3]] == [5, 5, 5]


def test_a_step_without_memory_ends_the_call_that_ran_it_and_nothing_stays(
    model: tinyllm.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (model.stream([1, 2, 3], max_new_tokens=9, ignore_eos=True) for _ in range(2))
    next(first)

    def failing_step() -> None:
        raise tinyllm.OutOfMemoryError("no room")

    with monkeypatch.context() as failing:
        failing.setattr(model._engine, "step", failing_step)
        with pytest.raises(tinyllm.OutOfMemoryError, match="no room"):
            list(first)
    assert list(first) == []
    assert len(list(second)) == 9
    assert model._scheduler._queues == {}
    assert model._engine.pages() == (8, 8)
