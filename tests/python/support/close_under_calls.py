"""Closes models, on the device that the argument names, under calls of other threads.

Writes how those ended: a JSON list of the different outcomes. Run by test_closing.py.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import tinyllm
from reference import DATA

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 20
SETTINGS = {"max_new_tokens": 3, "ignore_eos": True}
CALLS: list[Callable[[tinyllm.Model], object]] = [
    lambda model: model.memory(),
    lambda model: model.generate([1, 2, 3], **SETTINGS),
    lambda model: list(model.stream([4], **SETTINGS)),
    lambda model: model.logits([1, 2, 3]),
]


def outcome(call: Callable[[tinyllm.Model], object], model: tinyllm.Model, barrier: Barrier) -> str:
    """Repeats a call until it raises, and gives the exception."""
    try:
        call(model)
        barrier.wait()
        while True:
            call(model)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def outcomes_of_a_round(device: str, calls: list[Callable[[tinyllm.Model], object]]) -> set[str]:
    model = tinyllm.load(DATA / "smollm2", device=device)
    barrier = Barrier(len(calls) + 1)
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(outcome, call, model, barrier) for call in calls]
        barrier.wait()
        time.sleep(0.003)  # in the midst of the calls
        model.close()
        return {future.result() for future in futures}


if __name__ == "__main__":
    found: set[str] = set()
    for _ in range(ROUNDS):
        for calls in (*([call] * 4 for call in CALLS), CALLS):
            found |= outcomes_of_a_round(sys.argv[1], calls)
    print(json.dumps(sorted(found)))
