"""`plan`: what a model will cost, to the byte, before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .._native import engine as native
from .._native.devices import kind_of_device
from ..checkpoints import open_checkpoint
from ..config import KVCacheConfig, ModelConfig, QuantizationType, as_quantization
from ..errors import ConfigError, OutOfMemoryError
from .html import html_table
from .report import Overhead, PlanEntry, by_component, format_bytes, overhead_entries, plan_entries

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from .._native.abi import CEngineConfig, CModelConfig

_DEFAULT_CONTEXT = 2048
PAGE_TOKENS = 64  # a KV page; contexts are planned in whole pages
_MAX_CONTEXT = 1 << 24  # what the engine accepts
_MAX_BATCH = 4096
_MAX_AUTO_BATCH = 64
# A CPU's memory is shared with everything else that runs, and more sequences make it no faster for long.
_AUTO_SHARE_ON_CPU = 4
_MAX_AUTO_BATCH_ON_CPU = 8

# What the CUDA driver takes from a GPU for a process: the context, the code of the kernels that a model uses, the
# graphs of its decode steps. The driver decides, so these are estimates: measured on an H200 with driver 580.159, CUDA
# 13.0 (docs/memory-model.md), rounded up; modules with the 8 MB that are held back for them. model.memory().driver has
# the figures of the machine at hand.
CUDA_DRIVER_ESTIMATE = {"context (estimate)": 524 << 20, "modules (estimate)": 16 << 20, "graphs (estimate)": 12 << 20}


@dataclass(frozen=True, repr=False)
class MemoryPlan:
    """Every allocation that a configuration makes on a device. Sizes in bytes.

    Computed by the native library, which allocates exactly these entries.
    """

    config: ModelConfig
    kv_cache: KVCacheConfig
    device: str  # "cpu" or "cuda"
    entries: tuple[PlanEntry, ...]
    overhead: tuple[Overhead, ...]  # what the engine takes beside the entries, most of it only while loading
    max_step_tokens: int | None = None
    rope_freq_factors: bool = False
    # Heap that the checkpoint's reader takes: for its header, and for its largest tensor. Pages of a mapped file are no
    # heap: the system takes them back at will. 0 for a plan of a bare ModelConfig.
    reader_bytes: int = 0

    @cached_property
    def components(self) -> dict[str, int]:
        """Component -> bytes: weights, scales, embedding, norms, kv_cache, activations, logits, workspace."""
        return by_component(self.entries)

    @property
    def total(self) -> int:
        """Bytes the engine allocates."""
        return sum(entry.bytes for entry in self.entries)

    @property
    def estimates(self) -> dict[str, int]:
        """What a device must have beside `total`.

        A GPU: the driver's own memory, roughly, and what loading and the rounding of the memory pool take. A CPU: what
        loading takes.
        """
        if self.device != "cuda":
            return {"loading": self.host_peak - self.total}
        beside = sum(entry.bytes for entry in self.overhead if entry.on_device)
        return driver_estimates(self.device) | {"loading and pool": beside}

    @property
    def host_peak(self) -> int:
        """Host memory at most while the model loads, the interpreter and mapped files apart.

        On the CPU the model itself is part of it.
        """
        beside = sum(entry.bytes for entry in self.overhead if not entry.on_device) + self.reader_bytes
        return beside + (self.total if self.device == "cpu" else 0)

    @property
    def needed(self) -> int:
        """`total` and the estimates: what a device must have free."""
        return self.total + sum(self.estimates.values())

    def fits(self, memory: float) -> bool:
        """Whether the plan and the estimates fit into `memory` bytes."""
        return self.needed <= memory

    def max_seq_len(self, memory: float, batch: int | None = None) -> int:
        """The largest context (in whole pages) at which `batch` sequences fit into `memory` bytes; 0 if none does."""
        batch = self.kv_cache.max_batch_size if batch is None else batch
        return self._largest("max_seq_len", KVCacheConfig(batch, PAGE_TOKENS), memory, _MAX_CONTEXT)

    def max_batch(self, memory: float, seq: int | None = None) -> int:
        """The largest number of sequences of `seq` tokens that fit into `memory` bytes; 0 if not even one does."""
        seq = self.kv_cache.max_seq_len if seq is None else seq
        return self._largest("max_batch", KVCacheConfig(1, seq), memory, _MAX_BATCH)

    def table(self, entries: bool = False) -> str:
        """The plan as text: a line a component, or with `entries` a line an allocation."""
        return "\n".join(self._lines(entries))

    def to_json(self) -> str:
        """The plan as one JSON object."""
        return json.dumps(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "device": self.device,
            "config": {**asdict(self.config), "quantization": self.config.quantization.value},
            "kv_cache": asdict(self.kv_cache),
            "components": self.components,
            "total": self.total,
            "estimates": self.estimates,
            "needed": self.needed,
            "host_peak": self.host_peak,
            "entries": [asdict(entry) for entry in self.entries],
            "overhead": [asdict(entry) for entry in self.overhead],
            "reader_bytes": self.reader_bytes,
        }

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return (
            f"<tinyllm.MemoryPlan of {self._title()}: {format_bytes(self.total)}, {format_bytes(self.needed)} needed>"
        )

    def _repr_html_(self) -> str:
        rows = [(name, f"{size:,}", format_bytes(size)) for name, size in self._sums().items()]
        return html_table(self._title(), ("component", "bytes", "1 MB = 2^20"), rows)

    def _title(self) -> str:
        kv, quantization = self.kv_cache, self.config.quantization.value
        tokens = f"{kv.max_batch_size} x {kv.max_seq_len} tokens"
        return f"{self.config.architecture}, {quantization}, {tokens} on {self.device}"

    def _sums(self) -> dict[str, int]:
        sums = {**self.components, "total": self.total, **self.estimates, "needed": self.needed}
        return sums | {"host while loading": self.host_peak}

    def _lines(self, entries: bool) -> Iterator[str]:
        if entries:
            for entry in self.entries:
                shape = " x ".join(map(str, entry.shape))
                yield f"{entry.component:<12} {entry.name:<28} {shape:>22} {entry.dtype:<9}{entry.bytes:>14}"
            for beside in self.overhead:
                when = "while loading" if beside.only_loading else ""
                where = "device" if beside.on_device else "host"
                yield f"{where:<12} {beside.name:<28} {when:>22} {'':<9}{beside.bytes:>14}"
        for name, size in self._sums().items():
            yield f"{name:<20}{size:>16} {format_bytes(size):>12}"

    def with_kv_cache(self, kv_cache: KVCacheConfig) -> MemoryPlan:
        """The plan of the same model and device with another KV cache."""
        return self._again(self.config, kv_cache)

    def with_quantization(self, quantization: QuantizationType) -> MemoryPlan:
        """The plan of the same model and device with other weights."""
        return self._again(replace(self.config, quantization=quantization), self.kv_cache)

    def _again(self, config: ModelConfig, kv_cache: KVCacheConfig) -> MemoryPlan:
        return make_plan(config, self.device, kv_cache, self.max_step_tokens, self.rope_freq_factors, self.reader_bytes)

    def _largest(self, what: str, kv_cache: KVCacheConfig, memory: float, limit: int) -> int:
        """See `native.largest_plan`, which knows the engine's buffers; what driver or reader take is taken off."""
        apart = sum(driver_estimates(self.device).values()) if self.device == "cuda" else self.reader_bytes
        structs = _structs(self.config, self.device, kv_cache, self.max_step_tokens, self.rope_freq_factors)
        return native.largest_plan(what, *structs, memory - apart, limit)


def driver_estimates(device_kind: str) -> dict[str, int]:
    """What the driver of a device takes for a process, roughly."""
    return dict(CUDA_DRIVER_ESTIMATE) if device_kind == "cuda" else {}


def plan(
    model: str | os.PathLike[str] | ModelConfig,
    device: str = "auto",
    quantization: QuantizationType | str | None = None,
    group_size: int | None = None,
    kv_cache: KVCacheConfig | None = None,
    recompute_activations: bool | None = None,
    *,
    dtype: str = "auto",
    max_step_tokens: int | None = None,
) -> MemoryPlan:
    """The memory plan of a checkpoint or of a ModelConfig. Needs no GPU, also for "cuda".

    Of a checkpoint headers only are read; config.json is enough.

    Arguments are those of `load` and mean the same, but for kv_cache="auto", which depends on a device's free memory;
    what is None is the config's own.
    """
    rope_freq_factors, reader_bytes = False, 0
    if isinstance(model, ModelConfig):
        config = model
    else:
        with open_checkpoint(model, need_weights=False) as checkpoint:
            config = checkpoint.config
            rope_freq_factors = checkpoint.rope_freq_factors
            reader_bytes = checkpoint.heap_bytes + max(tensor.heap_bytes for tensor in checkpoint.tensors())
    config = engine_config(
        config,
        config.quantization if quantization is None else quantization,
        config.group_size if group_size is None else group_size,
        dtype,
        config.recompute_activations if recompute_activations is None else recompute_activations,
    )
    kv_cache = kv_cache or default_kv_cache(config)
    return make_plan(config, kind_of_device(device), kv_cache, max_step_tokens, rope_freq_factors, reader_bytes)


def engine_config(
    config: ModelConfig,
    quantization: QuantizationType | str = QuantizationType.W8A16,
    group_size: int = 128,
    dtype: str = "auto",
    recompute_activations: bool = False,
) -> ModelConfig:
    """A checkpoint's configuration with what the user chose; the arguments are those of `load`."""
    if dtype == "auto":
        dtype = "bfloat16" if config.dtype == "float32" else config.dtype
    return replace(
        config,
        quantization=as_quantization(quantization),
        group_size=group_size,
        dtype=dtype,
        recompute_activations=recompute_activations,
    )


def default_kv_cache(config: ModelConfig) -> KVCacheConfig:
    """One sequence of 2048 tokens, or of the model's whole context where that is shorter."""
    return KVCacheConfig(max_batch_size=1, max_seq_len=min(_DEFAULT_CONTEXT, config.max_seq_len))


def make_plan(
    config: ModelConfig,
    device_kind: str,
    kv_cache: KVCacheConfig,
    max_step_tokens: int | None = None,
    rope_freq_factors: bool = False,
    reader_bytes: int = 0,
) -> MemoryPlan:
    """The plan of a configuration in which everything is decided."""
    if not isinstance(kv_cache, KVCacheConfig):
        raise ConfigError(f"kv_cache must be a KVCacheConfig; got {kv_cache!r}")
    structs = _structs(config, device_kind, kv_cache, max_step_tokens, rope_freq_factors)
    entries = plan_entries(native.plan(*structs))
    overhead = overhead_entries(native.plan_overhead(*structs))
    return MemoryPlan(
        config, kv_cache, device_kind, entries, overhead, max_step_tokens, rope_freq_factors, reader_bytes
    )


def _structs(
    config: ModelConfig,
    device_kind: str,
    kv_cache: KVCacheConfig,
    max_step_tokens: int | None,
    rope_freq_factors: bool,
) -> tuple[CModelConfig, CEngineConfig]:
    return (
        native.model_struct(config, rope_freq_factors),
        native.engine_struct(device_kind, 0, kv_cache, max_step_tokens),
    )


def auto_kv_cache(
    config: ModelConfig,
    device_kind: str,
    memory: int,
    max_step_tokens: int | None = None,
    rope_freq_factors: bool = False,
    leave_room: bool = False,
) -> KVCacheConfig:
    """The KV cache that makes the whole plan fill `memory` bytes.

    The context comes first, up to the model's own, then as many sequences of it as fit, at most 64.

    With `leave_room` it takes a quarter of what the weights leave, where a page fits into that, for at most 8
    sequences.

    Raises OutOfMemoryError if not even a page fits beside the weights.
    """
    smallest = make_plan(config, device_kind, KVCacheConfig(1, PAGE_TOKENS), max_step_tokens, rope_freq_factors)
    max_batch = _MAX_AUTO_BATCH_ON_CPU if leave_room else _MAX_AUTO_BATCH
    if leave_room:
        quarter = (memory - smallest.needed) // _AUTO_SHARE_ON_CPU
        memory = smallest.needed + quarter if quarter >= 0 else memory
    context = min(smallest.max_seq_len(memory, batch=1), config.max_seq_len)
    if context == 0:
        raise OutOfMemoryError(
            f"the model needs {smallest.total} bytes ({format_bytes(smallest.total)}) with the smallest KV cache, but "
            f"only {memory} bytes ({format_bytes(memory)}) may be used:\n{smallest.table()}"
        )
    return KVCacheConfig(min(smallest.max_batch(memory, seq=context), max_batch), context)


def comparison_table(base: MemoryPlan) -> str:
    """A table of int8 beside 16-bit weights, component by component."""
    int8, half = (base.with_quantization(q) for q in (QuantizationType.W8A16, QuantizationType.NONE))
    lines = [f"{'component':<14}{'int8':>12}{'16-bit':>12}{'saved':>8}"]
    names = list(dict.fromkeys([*int8.components, *half.components]))
    rows = [(name, int8.components.get(name, 0), half.components.get(name, 0)) for name in names]
    for name, small, large in [*rows, ("total", int8.total, half.total)]:
        saved = f"{1 - small / large:.0%}" if large else ""
        lines.append(f"{name:<14}{format_bytes(small):>12}{format_bytes(large):>12}{saved:>8}")
    return "\n".join(lines)
