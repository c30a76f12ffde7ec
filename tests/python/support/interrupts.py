"""Interrupts a tiny model's public calls and checks what is left.

Run by test_interrupts.py, and by hand for more:

    python tests/python/support/interrupts.py random 10000
    python tests/python/support/interrupts.py lines 1

`random` raises KeyboardInterrupt at random moments, as Ctrl-C does, through the handler of a timer's signal; `lines N`
raises it at every Nth line of the Python package that the calls run, finalizers included. After each a model must
be usable or closed; at the end nothing may be allocated. Prints one JSON object of counts. What hangs is the caller's
to notice.
"""

from __future__ import annotations

import contextlib
import gc
import json
import random
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tinyllm
from debug_hooks import live_bytes
from reference import DATA
from tinyllm import ClosedError, KVCacheConfig, Model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

PACKAGE = str(Path(tinyllm.__file__).parent)
LIMIT = {"max_new_tokens": 4, "ignore_eos": True}
MESSAGES = [{"role": "user", "content": "a"}]


def load() -> Model:
    return tinyllm.load(DATA / "smollm2", device="cpu", kv_cache=KVCacheConfig(3, 256))


def read_some(model: Model) -> None:
    stream = model.stream([1, 2, 3], **LIMIT)
    next(stream)
    stream.close()


def load_and_close(_: Model) -> None:
    load().close()


CALLS: list[Callable[[Model], Any]] = [
    lambda model: model.generate([1, 2, 3], **LIMIT),
    lambda model: model.generate([[1], [2, 3], [4], [5]], temperature=0.8, logprobs=True, **LIMIT),
    lambda model: model.generate([5, 6], stop=["a"], **LIMIT),
    lambda model: list(model.stream([1, 2], **LIMIT)),
    read_some,
    lambda model: model.stream([7], **LIMIT),  # dropped at once
    lambda model: model.chat(MESSAGES, **LIMIT),
    lambda model: model.logits([1, 2, 3]),
    lambda model: model.memory(),
    lambda model: model.close(),
    load_and_close,
]


def survives(model: Model) -> Model:
    """The model if it works, a new one if it is closed. A model that is neither is an error."""
    try:
        assert model.generate([1, 2, 3], **LIMIT).stats.generated_tokens == 4
        # Those of a request that was dropped are free after the step that runs.
        while (report := model.memory()).kv_pages_free != report.kv_pages:
            pass
    except ClosedError:
        return load()
    return model


def leftovers() -> int:
    """Bytes that are allocated though no model is open."""
    gc.collect()
    load().close()  # makes a native object, which clears what interrupted finalizers left
    return live_bytes()


def random_interrupts(count: int) -> dict[str, int]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)
    rng = random.Random(1)
    model = survives(load())
    for call in CALLS:  # an import that is interrupted leaves a package half made, which is Python's own affair
        call(model)
        model = survives(model)
    hits = runs = 0
    while hits < count:
        call = rng.choice(CALLS)
        runs += 1
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, 10 ** rng.uniform(-5, -2.2))
                call(model)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            hits += 1
        except ClosedError:
            pass
        model = settled(model)
    model.close()
    del model
    return {
        "interrupts": hits,
        "calls": runs,
        "threads": sum(not thread.daemon for thread in threading.enumerate()),
        "bytes": leftovers(),
    }


def settled(model: Model) -> Model:
    """`survives`, though a late signal may still arrive in it."""
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return survives(model)


class Tracer:
    """Counts the lines of the package that run, and raises KeyboardInterrupt at one of them."""

    def __init__(self, at: int | None) -> None:
        self.lines = 0
        self._at = at

    def __call__(self, frame: FrameType, event: str, _: object) -> Tracer | None:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self._at:
                raise KeyboardInterrupt
        return self


@contextlib.contextmanager
def tracing(tracer: Tracer) -> Iterator[None]:
    sys.settrace(tracer)
    try:
        yield
    finally:
        sys.settrace(None)


def interrupt_lines(stride: int) -> dict[str, int]:
    sys.unraisablehook = lambda _: None  # an interrupt in a finalizer is printed, and lost
    hits = 0
    model = survives(load())
    for first, call in enumerate(CALLS):  # `first`: a different remainder for each call
        tracer = Tracer(None)
        with tracing(tracer):
            call(model)
        model = survives(model)
        for line in range(1 + first % stride, tracer.lines + 1, stride):
            with contextlib.suppress(KeyboardInterrupt), tracing(Tracer(line)):
                call(model)
            hits += 1
            model = survives(model)
    model.close()
    del model
    return {
        "interrupts": hits,
        "threads": sum(not thread.daemon for thread in threading.enumerate()),
        "bytes": leftovers(),
    }


if __name__ == "__main__":
    run = {"random": random_interrupts, "lines": interrupt_lines}[sys.argv[1]]
    print(json.dumps(run(int(sys.argv[2]))))
