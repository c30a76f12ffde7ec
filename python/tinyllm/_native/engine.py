"""Configurations as C structs, plans, and `NativeEngine`, one engine handle."""

from __future__ import annotations

import ctypes
from ctypes import Structure, byref, c_int32, c_int64, c_void_p
from typing import TYPE_CHECKING, Any

from .._checks import is_integer
from ..config import KVCacheConfig, ModelConfig, QuantizationType
from ..errors import ClosedError, ConfigError
from .abi import (
    CAllocation,
    CDeviceInfo,
    CDeviceMemory,
    CEngineConfig,
    CMemoryStats,
    CModelConfig,
    COverheadEntry,
    CPlanEntry,
    CTensorSpec,
)
from .handle import NativeObject
from .library import call, library, read_list

if TYPE_CHECKING:
    import numpy as np

DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
DEVICE_KINDS = {"cpu": 0, "cuda": 1}
QUANTIZATIONS = {QuantizationType.NONE: 0, QuantizationType.W8A16: 1}
ROPE_TYPES = {"default": 0, "linear": 1, "dynamic": 2, "llama3": 3, "yarn": 4}
MAX_STEP_TOKENS = 65536  # what the engine accepts


def model_struct(config: ModelConfig, rope_freq_factors: bool = False) -> CModelConfig:
    """The C struct of a ModelConfig; its fields have the same names."""
    struct = CModelConfig(struct_size=ctypes.sizeof(CModelConfig), rope_freq_factors=rope_freq_factors)
    encoded = {
        "dtype": DTYPES[config.dtype],
        "quantization": QUANTIZATIONS[config.quantization],
        "rope_type": ROPE_TYPES[config.rope_type],
    }
    for name, *_ in CModelConfig._fields_:
        if name in encoded:
            setattr(struct, name, encoded[name])
        elif name not in ("struct_size", "rope_freq_factors"):
            setattr(struct, name, getattr(config, name))
    return struct


def engine_struct(
    device_kind: str,
    device_index: int,
    kv_cache: KVCacheConfig,
    max_step_tokens: int | None = None,
    prefill_chunk: int | None = None,
) -> CEngineConfig:
    """The C struct of what an engine may use; None is the device's default."""
    # Checked here, where all callers pass: ctypes would cut off the upper bits of a number without a word.
    for name, value in (("max_step_tokens", max_step_tokens), ("prefill_chunk", prefill_chunk)):
        if value is not None and not is_integer(value, 1, MAX_STEP_TOKENS):
            raise ConfigError(f"{name} must be an integer from 1 to {MAX_STEP_TOKENS} or None; got {value!r}")
    return CEngineConfig(
        struct_size=ctypes.sizeof(CEngineConfig),
        device_kind=DEVICE_KINDS[device_kind],
        device_index=device_index,
        max_batch_size=kv_cache.max_batch_size,
        max_seq_len=kv_cache.max_seq_len,
        num_pages=kv_cache.num_pages or 0,
        max_step_tokens=max_step_tokens or 0,
        prefill_chunk=prefill_chunk or 0,
    )


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


def model_tensors(model: CModelConfig) -> list[CTensorSpec]:
    """The tensors of a checkpoint, in the order to load them in."""
    return read_list("tl_model_tensors", CTensorSpec, byref(model))


def plan(model: CModelConfig, engine: CEngineConfig) -> list[CPlanEntry]:
    """The memory plan of a configuration; needs no device."""
    return read_list("tl_plan", CPlanEntry, byref(model), byref(engine))


def plan_overhead(model: CModelConfig, engine: CEngineConfig) -> list[COverheadEntry]:
    """What an engine takes beside its plan; needs no device."""
    return read_list("tl_plan_overhead", COverheadEntry, byref(model), byref(engine))


def largest_plan(what: str, model: CModelConfig, engine: CEngineConfig, memory: float, limit: int) -> int:
    """The largest "max_seq_len" or "max_batch" (`what`), at most `limit`, of an engine that fits into `memory` bytes.

    0 if none does, as in nothing, less than nothing and NaN.
    """
    result = c_int32()
    whole = int(min(memory, 2**64 - 1)) if memory > 0 else 0
    call(f"tl_plan_{what}", byref(model), byref(engine), whole, limit, byref(result))
    return result.value


class NativeEngine(NativeObject):
    """One engine. Not for users: `model.Model` owns it.

    Every method may be called from any thread; once the engine is closed they raise ClosedError.
    """

    def __init__(self, model: CModelConfig, engine: CEngineConfig) -> None:
        super().__init__(library().tl_engine_destroy, at_exit=library().tl_engine_close)
        call("tl_engine_create", byref(model), byref(engine), byref(self.handle))

    @property
    def closed(self) -> bool:
        """Whether `close` has begun."""
        return bool(library().tl_engine_closed(self.handle))

    def require_open(self) -> None:
        """ClosedError once the engine is closed."""
        if self.closed:
            raise ClosedError("this model is closed; load it again")

    def close(self) -> None:
        """End all requests and give all memory back, once the calls of other threads are over.

        Closing twice is allowed.
        """
        call("tl_engine_close", self.handle)

    def load_tensor(self, name: str, array: np.ndarray) -> None:
        """Hand over one tensor (float32, float16 or bfloat16, C-contiguous); it is only read during the call."""
        shape = (c_int64 * array.ndim)(*array.shape)
        call(
            "tl_engine_load_tensor",
            self.handle,
            name.encode(),
            DTYPES[array.dtype.name],
            shape,
            array.ndim,
            c_void_p(array.ctypes.data),
        )

    def finish_load(self) -> None:
        call("tl_engine_finish_load", self.handle)

    def fill_random(self, seed: int) -> None:
        """Instead of loading, for benchmarks: made-up weights."""
        call("tl_engine_fill_random", self.handle, seed)

    def plan(self) -> list[CPlanEntry]:
        return self._read_list("tl_engine_plan", CPlanEntry)

    def memory(self) -> list[CMemoryStats]:
        return self._read_list("tl_engine_memory", CMemoryStats)

    def allocations(self) -> list[CAllocation]:
        return self._read_list("tl_engine_allocations", CAllocation)

    def device_memory(self) -> CDeviceMemory:
        """The device's memory now, and what its driver has taken for this process."""
        memory = CDeviceMemory(struct_size=ctypes.sizeof(CDeviceMemory))
        call("tl_engine_device_memory", self.handle, byref(memory))
        return memory

    def pages(self) -> tuple[int, int]:
        """(free, total) pages of the KV pool."""
        free, total = c_int32(), c_int32()
        call("tl_engine_pages", self.handle, byref(free), byref(total))
        return free.value, total.value

    def _read_list(self, name: str, item: type[Structure]) -> list[Any]:
        return read_list(name, item, self.handle)
