"""Ends that nobody waits for: models closed under calls, streams dropped or never read, steps that fail."""

from __future__ import annotations

import gc
import json
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import tinyllm
from python_process import run_program
from reference import DATA
from tinyllm import ClosedError, KVCacheConfig, TextStream
from tinyllm._native.handle import NativeObject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLOSED = "this model is closed; load it again"


@pytest.fixture
def model(device: str) -> Iterator[tinyllm.Model]:
    with tinyllm.load(DATA / "smollm2", device=device, kv_cache=KVCacheConfig(2, 256)) as loaded:
        yield loaded


class Thing(NativeObject):
    """A native object whose library is this test: a made one has a handle, a destroyed one has none."""

    def __init__(self, destroyed: list[int], keep: object = None) -> None:
        def destroy(pointer: Any) -> None:
            if pointer._obj.value is not None:
                destroyed.append(pointer._obj.value)
            pointer._obj.value = None

        super().__init__(destroy, keep=keep)
        self.handle.value = 1 + len(destroyed)


def test_a_native_object_is_destroyed_once_with_what_it_keeps() -> None:
    destroyed: list[int] = []
    kept = Thing([])
    alive = weakref.ref(kept)
    thing = Thing(destroyed, kept)
    del kept
    assert alive() is not None
    assert destroyed == []
    del thing
    assert destroyed == [1]
    assert alive() is None


def test_an_object_whose_finalizer_was_interrupted_is_destroyed_when_the_next_one_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    destroyed: list[int] = []

    class Interrupted(Thing):
        def __del__(self) -> None:
            raise KeyboardInterrupt

    thing = Interrupted(destroyed)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    del thing
    assert destroyed == []
    other = Thing([])
    assert destroyed == [1]
    del other
    assert destroyed == [1]


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
    # Dropped, it ends with the step that runs; closed, it has ended.
    result = model.generate([1], max_new_tokens=1)
    assert result.finish_reason == "length"
    assert model.memory().kv_pages_free == model.memory().kv_pages == 8


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
    assert [len(list(stream)) for stream in streams[:3]] == [5, 5, 5]
