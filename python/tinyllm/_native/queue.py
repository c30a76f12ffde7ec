"""Requests and their events."""

from __future__ import annotations

import ctypes
import secrets
import struct
from contextlib import suppress
from ctypes import POINTER, byref, c_int32, c_uint64, c_void_p, create_string_buffer
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import ClosedError
from .abi import CEvent, CGenerationConfig, CRequest
from .handle import NativeObject
from .library import call, error_of, library

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..config import GenerationConfig
    from .engine import NativeEngine

# How long one call waits for events. Python runs signal handlers between calls, so this is the longest that a Ctrl-C
# waits.
_WAIT_MS = 50
_MAX_EVENTS = 1024  # taken by one call
_MAX_MESSAGE = 4096
_NO_LIMIT = 2**31 - 1

# tl_event, as `CEvent` has it; field by field ctypes takes ten times as long.
_EVENT = struct.Struct("=Qifiiiiddd")


class Event(NamedTuple):
    """tl_event: one token of one request, or its end."""

    request_id: int
    token_id: int  # -1: the end brought no token
    logprob: float  # NaN unless asked for
    finish_reason: int  # one of the constants below
    status: int
    prompt_tokens: int
    generated_tokens: int
    queued_ms: float
    ttft_ms: float
    total_ms: float


FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED, FINISH_ERROR = range(5)


class EventQueue(NativeObject):
    """Takes the events of the requests that are submitted to it. Steps run on a thread of the library.

    Dropping a queue cancels its requests. `take` is for one thread at a time.
    """

    def __init__(self, engine: NativeEngine, prompt_logits: np.ndarray | None = None) -> None:
        """`prompt_logits` [n, vocab], float32: where the logits of its only request, of n tokens, go."""
        super().__init__(library().tl_queue_destroy, keep=prompt_logits)
        self._prompt_logits = prompt_logits
        self._count = c_int32()
        call("tl_queue_create", engine.handle, byref(self.handle))

    def submit(self, prompts: Sequence[Sequence[int]], config: GenerationConfig, stop_token_ids: Sequence[int]) -> int:
        """Queue a request for each prompt, all of them or, where one is wrong, none.

        Returns the id of the first; the others follow. Without a seed in `config` each has one of its own.
        """
        stops = (c_int32 * len(stop_token_ids))(*stop_token_ids)
        ids = [np.ascontiguousarray(prompt, dtype=np.int32) for prompt in prompts]
        configs = (CGenerationConfig * len(ids))()
        requests = (CRequest * len(ids))()
        logits = None if self._prompt_logits is None else c_void_p(self._prompt_logits.ctypes.data)
        for request, c_config, prompt in zip(requests, configs, ids, strict=True):
            seed = secrets.randbits(64) if config.seed is None else config.seed
            _fill(c_config, config, seed, stops, wants_tokens=logits is None)
            request.token_ids = prompt.ctypes.data_as(POINTER(c_int32))
            request.num_tokens = prompt.size
            request.config = ctypes.pointer(c_config)
            request.prompt_logits = logits
        self._events = (CEvent * min(max(16, 2 * len(ids)), _MAX_EVENTS))()
        first = c_uint64()
        call("tl_queue_submit", self.handle, requests, len(ids), byref(first))
        return first.value

    def take(self) -> list[Event]:
        """The next events, at least one; those of a request in order. ClosedError once the engine is closed."""
        count = self._count
        while True:
            call("tl_queue_wait", self.handle, self._events, len(self._events), _WAIT_MS, byref(count))
            if count.value:
                view = memoryview(self._events).cast("B")[: count.value * _EVENT.size]
                return list(map(Event._make, _EVENT.iter_unpack(view)))

    def error(self, event: Event) -> Exception:
        """What a request ended with whose last event has FINISH_ERROR."""
        text = create_string_buffer(_MAX_MESSAGE)
        call("tl_queue_error", self.handle, event.request_id, text, len(text))
        return error_of(event.status, text.value.decode(errors="replace"))

    def cancel(self, request_id: int) -> None:
        """End a request; its last event comes then. Unknown and ended ones are passed over."""
        call("tl_queue_cancel", self.handle, request_id)

    def close(self) -> None:
        """End all requests and wait until the engine has let go of them. Closing twice is allowed."""
        with suppress(ClosedError):  # another thread closes the engine at this moment, which ends them too
            call("tl_queue_close", self.handle)


def _fill(
    struct_: CGenerationConfig, config: GenerationConfig, seed: int, stops: ctypes.Array[c_int32], wants_tokens: bool
) -> None:
    """The C struct of a GenerationConfig; its fields have the same names."""
    other = {
        "struct_size": ctypes.sizeof(CGenerationConfig),
        # No limit means the end of the context, which the engine enforces anyway.
        "max_new_tokens": (config.max_new_tokens or _NO_LIMIT) if wants_tokens else 0,
        "seed": seed,
        "stop_token_ids": stops,
        "num_stop_token_ids": len(stops),
    }
    for name, *_ in CGenerationConfig._fields_:
        setattr(struct_, name, other[name] if name in other else getattr(config, name))
