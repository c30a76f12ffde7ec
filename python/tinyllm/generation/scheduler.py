"""Steps the engine for any number of threads, and hands each request its own events."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from .._native.engine import NativeEngine
from ..config import GenerationConfig
from ..errors import ClosedError

Event = dict[str, Any]


class Scheduler:
    """Whichever thread waits for an event runs the next step; the others wait until it is done.

    Safe from any thread. A step runs without the GIL. An error of a step (OutOfMemoryError, CudaError) is raised in the
    thread that ran it, whichever request caused it.
    """

    def __init__(self, engine: NativeEngine) -> None:
        self._engine = engine
        self._condition = threading.Condition()  # guards everything below
        self._queues: dict[int, deque[Event]] = {}
        self._stepping = False

    def submit(
        self,
        token_ids: Sequence[int],
        config: GenerationConfig,
        stop_token_ids: Sequence[int],
        prompt_logits: np.ndarray | None = None,
    ) -> int:
        """Queue a request; its events wait here until `events` or `cancel` takes them."""
        seed = secrets.randbits(64) if config.seed is None else config.seed
        # Under the lock, so that no thread can see an event of a request that has no queue yet.
        with self._condition:
            request_id = self._engine.submit(token_ids, config, seed, stop_token_ids, prompt_logits)
            self._queues[request_id] = deque()
        return request_id

    def events(self, request_id: int) -> list[Event]:
        """The next events of a request, at least one; steps the engine until there are some."""
        while True:
            with self._condition:
                self._engine.require_open()
                queue = self._queues[request_id]
                while not queue and self._stepping:
                    self._condition.wait()
                if queue:
                    taken = list(queue)
                    queue.clear()
                    if taken[-1]["finish_reason"] is not None:
                        self._queues.pop(request_id, None)
                    return taken
                self._stepping = True
            self._step()

    def cancel(self, request_ids: Iterable[int]) -> None:
        """End requests and wait until the engine has let go of them. Finished ones are passed over.

        Where a step on the way fails, the engine lets go of them in its next one.
        """
        live: list[int] = []
        try:
            with suppress(ClosedError):  # closing ends every request
                with self._condition:
                    live = [request_id for request_id in request_ids if request_id in self._queues]
                    for request_id in live:
                        self._engine.cancel(request_id)
                for request_id in live:
                    while self.events(request_id)[-1]["finish_reason"] is None:
                        pass
        finally:
            with self._condition:
                for request_id in live:
                    self._queues.pop(request_id, None)

    def abandon(self, request_id: int) -> None:
        """End a request without waiting; its pages are free after the next step.

        For finalizers: the garbage collector runs them between any two lines, also of this class, and at the
        interpreter's exit, when a daemon thread may have stopped for ever with a lock. Engines are closed by then.
        """
        if self._engine.closed:
            return
        with self._condition, suppress(ClosedError):
            if self._queues.pop(request_id, None) is not None:
                self._engine.cancel(request_id)

    def _step(self) -> None:
        try:
            self._engine.step()
        finally:
            with self._condition:
                for event in self._engine.take_events():
                    queue = self._queues.get(event["request_id"])
                    if queue is not None:  # None where an interrupt hit between submitting and keeping the id
                        queue.append(event)
                self._stepping = False
                self._condition.notify_all()
