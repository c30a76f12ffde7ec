"""The calls of the functions of native/include/tinyllm.h through ctypes, and the translation of errors.

`library()` loads libtinyllm.so once. `NativeEngine` wraps one engine handle. abi.py has the structs.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import weakref
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_int32, c_int64, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from .._checks import is_integer
from ..config import GenerationConfig, KVCacheConfig, ModelConfig, QuantizationType
from ..errors import CheckpointError, ConfigError, CudaError, OutOfMemoryError, TinyllmError
from .abi import (
    ABI_VERSION,
    FUNCTIONS,
    OTHER_FUNCTIONS,
    CAllocation,
    CDeviceInfo,
    CDeviceMemory,
    CEngineConfig,
    CEvent,
    CGenerationConfig,
    CMemoryStats,
    CModelConfig,
    COverheadEntry,
    CPlanEntry,
)
from .handle import EngineHandle

DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
DEVICE_KINDS = {"cpu": 0, "cuda": 1}
QUANTIZATIONS = {QuantizationType.NONE: 0, QuantizationType.W8A16: 1}
ROPE_TYPES = {"default": 0, "linear": 1, "dynamic": 2, "llama3": 3, "yarn": 4}
FINISH_REASONS = {0: None, 1: "stop", 2: "length", 3: "cancelled"}
MAX_STEP_TOKENS = 65536  # what the engine accepts
# tl_status -> exception. A wrong argument is a ValueError like a wrong configuration.
_ERRORS = {1: ConfigError, 2: ConfigError, 3: CheckpointError, 4: OutOfMemoryError, 5: CudaError, 6: TinyllmError}


def library_path() -> Path:
    """Where libtinyllm.so is: TINYLLM_LIBRARY if set (a build tree, for example), else beside this package."""
    override = os.environ.get("TINYLLM_LIBRARY")
    return Path(override) if override else Path(__file__).parents[1] / "lib" / "libtinyllm.so"


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library with all signatures set. TinyllmError if it is missing or of another ABI version."""
    path = library_path()
    try:
        # ctypes releases the GIL during every call of a CDLL.
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        raise TinyllmError(
            f"the native library {path} could not be loaded ({error}); install the package with 'pip install .', or "
            "set TINYLLM_LIBRARY to a built libtinyllm.so"
        ) from error
    lib.tl_abi_version.restype = c_int32
    if lib.tl_abi_version() != ABI_VERSION:
        raise TinyllmError(
            f"{path} has ABI version {lib.tl_abi_version()}, this package needs {ABI_VERSION}; reinstall tinyllm"
        )
    for name, argtypes in FUNCTIONS.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = argtypes, c_int32
    for name, (argtypes, restype) in OTHER_FUNCTIONS.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = argtypes, restype
    return lib


def call(name: str, *args: Any) -> None:
    """Call a function that returns a tl_status; raise the matching exception with the native message."""
    lib = library()
    status = getattr(lib, name)(*args)
    if status != 0:
        raise _ERRORS.get(status, TinyllmError)(lib.tl_last_error().decode())


def model_struct(config: ModelConfig, rope_freq_factors: bool = False) -> CModelConfig:
    """The C struct of a ModelConfig; its fields have the same names."""
    struct = CModelConfig(struct_size=ctypes.sizeof(CModelConfig), rope_freq_factors=rope_freq_factors)
    encoded = {
        "dtype": DTYPES[config.dtype],
        "quantization": QUANTIZATIONS[config.quantization],
        "rope_type": ROPE_TYPES[config.rope_type],
    }
    for name, _ in CModelConfig._fields_:
        if name in encoded:
            setattr(struct, name, encoded[name])
        elif name not in ("struct_size", "rope_freq_factors"):
            setattr(struct, name, getattr(config, name))
    return struct


def engine_struct(
    device_kind: str, device_index: int, kv_cache: KVCacheConfig, max_step_tokens: int | None
) -> CEngineConfig:
    """The C struct of what an engine may use; max_step_tokens None is the device's default."""
    # Checked here, where all callers pass: ctypes would cut off the upper bits of a number without a word.
    if max_step_tokens is not None and not is_integer(max_step_tokens, 1, MAX_STEP_TOKENS):
        raise ConfigError(
            f"max_step_tokens must be an integer from 1 to {MAX_STEP_TOKENS} or None; got {max_step_tokens!r}"
        )
    return CEngineConfig(
        struct_size=ctypes.sizeof(CEngineConfig),
        device_kind=DEVICE_KINDS[device_kind],
        device_index=device_index,
        max_batch_size=kv_cache.max_batch_size,
        max_seq_len=kv_cache.max_seq_len,
        num_pages=kv_cache.num_pages or 0,
        max_step_tokens=max_step_tokens or 0,
    )


def read_list(name: str, item: type[Structure], *args: Any) -> list[Any]:
    """The items of a function with the (entries, capacity, count) convention."""
    count = c_int32()
    call(name, *args, None, 0, byref(count))
    items = (item * count.value)()
    call(name, *args, items, count.value, byref(count))
    return list(items[: min(count.value, len(items))])


def device_infos() -> list[CDeviceInfo]:
    """Every device the library knows."""
    count = c_int32()
    call("tl_device_count", byref(count))
    infos = []
    for index in range(count.value):
        info = CDeviceInfo(struct_size=ctypes.sizeof(CDeviceInfo))
        call("tl_device_info_get", index, byref(info))
        infos.append(info)
    return infos


def plan(model: CModelConfig, engine: CEngineConfig) -> list[CPlanEntry]:
    """The memory plan of a configuration; needs no device."""
    return read_list("tl_plan", CPlanEntry, byref(model), byref(engine))


def plan_overhead(model: CModelConfig, engine: CEngineConfig) -> list[COverheadEntry]:
    """What an engine takes beside its plan; needs no device."""
    return read_list("tl_plan_overhead", COverheadEntry, byref(model), byref(engine))


def largest_plan(what: str, model: CModelConfig, engine: CEngineConfig, memory: float, limit: int) -> int:
    """The largest "max_seq_len" or "max_batch" (`what`), at most `limit`, of an engine that fits into `memory` bytes;
    0 if none does, as in nothing, less than nothing and NaN."""
    result = c_int32()
    whole = int(min(memory, 2**64 - 1)) if memory > 0 else 0
    call(f"tl_plan_{what}", byref(model), byref(engine), whole, limit, byref(result))
    return result.value


class NativeEngine:
    """One engine handle. Not for users: `model.Model` owns it."""

    def __init__(self, model: CModelConfig, engine: CEngineConfig) -> None:
        handle = c_void_p()
        call("tl_engine_create", byref(model), byref(engine), byref(handle))
        self._handle = EngineHandle(handle, library().tl_engine_destroy)
        # Also runs when the interpreter exits, where a stream may outlive the engine.
        weakref.finalize(self, self._handle.finalize)
        self.max_events = library().tl_engine_max_events(handle)
        self._events = (CEvent * self.max_events)()
        self._event_count = c_int32()

    def require_open(self) -> None:
        """ClosedError once the engine is closed; then no other thread's call is running any more."""
        with self._handle.in_use():
            pass

    @property
    def closed(self) -> bool:
        """Whether `close` has begun."""
        return self._handle.closed

    def close(self) -> None:
        """Destroy the engine once the calls of other threads are over. Closing twice is allowed."""
        self._handle.close()

    def _call(self, name: str, *args: Any) -> None:
        """`call` with the handle first; ClosedError once the engine is closed."""
        with self._handle.in_use() as handle:
            call(name, handle, *args)

    def _read_list(self, name: str, item: type[Structure]) -> list[Any]:
        with self._handle.in_use() as handle:
            return read_list(name, item, handle)

    def load_tensor(self, name: str, array: np.ndarray) -> None:
        """Hand over one tensor (float32, float16 or bfloat16, C-contiguous); it is only read during the call."""
        shape = (c_int64 * array.ndim)(*array.shape)
        self._call(
            "tl_engine_load_tensor",
            name.encode(),
            DTYPES[array.dtype.name],
            shape,
            array.ndim,
            c_void_p(array.ctypes.data),
        )

    def finish_load(self) -> None:
        self._call("tl_engine_finish_load")

    def submit(
        self,
        token_ids: Sequence[int],
        config: GenerationConfig,
        seed: int,
        stop_token_ids: Sequence[int],
        prompt_logits: np.ndarray | None = None,
    ) -> int:
        """Queue a request and return its id. `prompt_logits` [n, vocab] float32 must live until its last event."""
        stops = (c_int32 * len(stop_token_ids))(*stop_token_ids)
        # No limit means the end of the context, which the engine enforces anyway.
        limit = 0 if prompt_logits is not None else config.max_new_tokens or 2**31 - 1
        struct = CGenerationConfig(
            struct_size=ctypes.sizeof(CGenerationConfig),
            max_new_tokens=limit,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            min_p=config.min_p,
            repetition_penalty=config.repetition_penalty,
            logprobs=config.logprobs,
            seed=seed,
            stop_token_ids=stops,
            num_stop_token_ids=len(stop_token_ids),
        )
        ids = np.asarray(token_ids, dtype=np.int32)
        request_id = c_uint64()
        self._call(
            "tl_engine_submit",
            ids.ctypes.data_as(POINTER(c_int32)),
            ids.size,
            byref(struct),
            None if prompt_logits is None else c_void_p(prompt_logits.ctypes.data),
            byref(request_id),
        )
        return request_id.value

    def step(self) -> None:
        """Run one step; its events are then in `take_events`, also where an interrupt came between the two."""
        self._event_count.value = 0
        idle = c_int32()
        self._call("tl_engine_step", self._events, self.max_events, byref(self._event_count), byref(idle))

    def take_events(self) -> list[dict[str, Any]]:
        """The events of the last step, once."""
        count, self._event_count.value = self._event_count.value, 0
        return [_event_dict(self._events[i]) for i in range(count)]

    def cancel(self, request_id: int) -> None:
        self._call("tl_engine_cancel", request_id)

    def plan(self) -> list[CPlanEntry]:
        return self._read_list("tl_engine_plan", CPlanEntry)

    def memory(self) -> list[CMemoryStats]:
        return self._read_list("tl_engine_memory", CMemoryStats)

    def allocations(self) -> list[CAllocation]:
        return self._read_list("tl_engine_allocations", CAllocation)

    def device_memory(self) -> CDeviceMemory:
        """The device's memory now, and what its driver has taken for this process."""
        memory = CDeviceMemory(struct_size=ctypes.sizeof(CDeviceMemory))
        self._call("tl_engine_device_memory", byref(memory))
        return memory

    def pages(self) -> tuple[int, int]:
        """(free, total) pages of the KV pool."""
        free, total = c_int32(), c_int32()
        self._call("tl_engine_pages", byref(free), byref(total))
        return free.value, total.value


def _event_dict(event: CEvent) -> dict[str, Any]:
    return {
        "request_id": event.request_id,
        "token_id": event.token_id if event.token_id >= 0 else None,
        "logprob": None if math.isnan(event.logprob) else event.logprob,
        "finish_reason": FINISH_REASONS[event.finish_reason],
        "prompt_tokens": event.prompt_tokens,
        "generated_tokens": event.generated_tokens,
        "queued_ms": event.queued_ms,
        "ttft_ms": event.ttft_ms,
        "total_ms": event.total_ms,
    }
