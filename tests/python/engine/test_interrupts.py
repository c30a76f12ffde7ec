"""Ctrl-C at any moment: nothing hangs, nothing stays allocated, a model stays usable or is closed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import tinyllm
from python_process import run_program
from reference import DATA
from tinyllm import KVCacheConfig
from tinyllm._native.queue import EventQueue

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def tiny_model(device: str) -> Iterator[tinyllm.Model]:
    with tinyllm.load(DATA / "smollm2", device=device, kv_cache=KVCacheConfig(2, 256)) as model:
        yield model


@pytest.mark.slow
@pytest.mark.parametrize(("how", "least"), [(["random", "300"], 300), (["lines", "11"], 500)], ids=["random", "lines"])
def test_interrupts_lose_nothing(how: list[str], least: int) -> None:
    result = run_program("interrupts.py", *how)
    assert result.returncode == 0, result.stderr
    counts = json.loads(result.stdout)
    assert counts["interrupts"] >= least
    assert counts["bytes"] == 0
    assert counts["threads"] == 1


def test_an_interrupt_of_a_wait_ends_its_requests(monkeypatch: pytest.MonkeyPatch, tiny_model: tinyllm.Model) -> None:
    take, calls = EventQueue.take, []

    def interrupted_take(queue: EventQueue) -> list:
        calls.append(take(queue))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return calls[-1]

    with monkeypatch.context() as patch:
        patch.setattr(EventQueue, "take", interrupted_take)
        with pytest.raises(KeyboardInterrupt):
            tiny_model.generate([[1, 2], [3]], ignore_eos=True)
    free, total = tiny_model._engine.pages()
    assert free == total
    assert tiny_model.generate([1], max_new_tokens=3, ignore_eos=True).stats.generated_tokens == 3
