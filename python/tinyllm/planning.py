"""`plan`: what a model will cost, to the byte, before anything is loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from . import _native
from .checkpoints import open_checkpoint
from .config import KVCacheConfig, ModelConfig, QuantizationType
from .devices import parse_device
from .errors import ConfigError, OutOfMemoryError
from .memory import PlanEntry, by_component, format_bytes, plan_entries

_DEFAULT_CONTEXT = 2048
PAGE_TOKENS = 64  # a KV page; contexts are planned in whole pages
_MAX_CONTEXT = 1 << 24  # what the engine accepts
_MAX_BATCH = 4096
_MAX_AUTO_BATCH = 64

# What a process takes from a GPU beside the plan: the CUDA context with its modules, and the graphs of decode steps.
# Estimates; the driver decides.
CUDA_RUNTIME_ESTIMATE = {"runtime (estimate)": 550 << 20, "graphs (estimate)": 24 << 20}


@dataclass(frozen=True)
class MemoryPlan:
    """Every allocation that a configuration makes on a device. Sizes in bytes. Computed by the native library, which
    allocates exactly these entries."""

    config: ModelConfig
    kv_cache: KVCacheConfig
    device: str  # "cpu" or "cuda"
    entries: tuple[PlanEntry, ...]
    max_step_tokens: int | None = None
    rope_freq_factors: bool = False

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
        """What the CUDA runtime itself takes, roughly; nothing on the CPU. Not part of `total`."""
        return dict(CUDA_RUNTIME_ESTIMATE) if self.device == "cuda" else {}

    def fits(self, memory: int) -> bool:
        """Whether the plan and the runtime's estimate fit into `memory` bytes."""
        return self.total + sum(self.estimates.values()) <= memory

    def max_seq_len(self, memory: int, batch: int | None = None) -> int:
        """The largest context (in whole pages) at which `batch` sequences fit into `memory` bytes; 0 if none does."""
        batch = self.kv_cache.max_batch_size if batch is None else batch

        def fits(pages: int) -> bool:
            return self.with_kv_cache(KVCacheConfig(batch, pages * PAGE_TOKENS)).fits(memory)

        return _largest(fits, _MAX_CONTEXT // PAGE_TOKENS) * PAGE_TOKENS

    def max_batch(self, memory: int, seq: int | None = None) -> int:
        """The largest number of sequences of `seq` tokens that fit into `memory` bytes; 0 if not even one does."""
        seq = self.kv_cache.max_seq_len if seq is None else seq
        return _largest(lambda batch: self.with_kv_cache(KVCacheConfig(batch, seq)).fits(memory), _MAX_BATCH)

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
            "entries": [asdict(entry) for entry in self.entries],
        }

    def __str__(self) -> str:
        return self.table()

    def _lines(self, entries: bool) -> Iterator[str]:
        if entries:
            for entry in self.entries:
                shape = " x ".join(map(str, entry.shape))
                yield f"{entry.component:<12} {entry.name:<28} {shape:>22} {entry.dtype:<9}{entry.bytes:>14}"
        rows = {**self.components, "total": self.total, **self.estimates}
        for name, size in rows.items():
            yield f"{name:<20}{size:>16} {format_bytes(size):>12}"

    def with_kv_cache(self, kv_cache: KVCacheConfig) -> MemoryPlan:
        """The plan of the same model and device with another KV cache."""
        return make_plan(self.config, self.device, kv_cache, self.max_step_tokens, self.rope_freq_factors)


def _largest(fits: Callable[[int], bool], limit: int) -> int:
    """The largest value from 1 to `limit` that fits, 0 if none: memory grows with it, so bisection finds it."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


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
    """The memory plan of a checkpoint (headers only are read) or of a ModelConfig; needs no GPU, also for "cuda".

    Arguments are those of `load` and mean the same; what is None is the config's own.
    """
    rope_freq_factors = False
    if isinstance(model, ModelConfig):
        config = model
    else:
        with open_checkpoint(model) as checkpoint:
            config = checkpoint.config
            rope_freq_factors = checkpoint.rope_freq_factors
    config = engine_config(
        config,
        config.quantization if quantization is None else quantization,
        config.group_size if group_size is None else group_size,
        dtype,
        config.recompute_activations if recompute_activations is None else recompute_activations,
    )
    return make_plan(
        config, parse_device(device)[0], kv_cache or default_kv_cache(config), max_step_tokens, rope_freq_factors
    )


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
        quantization=quantization,
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
) -> MemoryPlan:
    """The plan of a configuration in which everything is decided."""
    if not isinstance(kv_cache, KVCacheConfig):
        raise ConfigError(f"kv_cache must be a KVCacheConfig; got {kv_cache!r}")
    raw = _native.plan(
        _native.model_struct(config, rope_freq_factors),
        _native.engine_struct(device_kind, 0, kv_cache, max_step_tokens or 0),
    )
    return MemoryPlan(config, kv_cache, device_kind, plan_entries(raw), max_step_tokens, rope_freq_factors)


def auto_kv_cache(
    config: ModelConfig,
    device_kind: str,
    memory: int,
    max_step_tokens: int | None = None,
    rope_freq_factors: bool = False,
) -> KVCacheConfig:
    """The KV cache that makes the whole plan fill `memory` bytes: the context first, up to the model's own, then as
    many sequences of it as fit, at most 64.

    Raises OutOfMemoryError if not even a page fits beside the weights.
    """
    smallest = make_plan(config, device_kind, KVCacheConfig(1, PAGE_TOKENS), max_step_tokens, rope_freq_factors)
    context = min(smallest.max_seq_len(memory, batch=1), config.max_seq_len)
    if context == 0:
        raise OutOfMemoryError(
            f"the model needs {smallest.total} bytes ({format_bytes(smallest.total)}) with the smallest KV cache, but "
            f"only {memory} bytes ({format_bytes(memory)}) may be used:\n{smallest.table()}"
        )
    return KVCacheConfig(min(smallest.max_batch(memory, seq=context), _MAX_AUTO_BATCH), context)


def compare_quantization(base: MemoryPlan) -> str:
    """A table of int8 beside 16-bit weights, component by component."""
    int8, half = (
        make_plan(
            replace(base.config, quantization=q),
            base.device,
            base.kv_cache,
            base.max_step_tokens,
            base.rope_freq_factors,
        )
        for q in (QuantizationType.W8A16, QuantizationType.NONE)
    )
    lines = [f"{'component':<14}{'int8':>12}{'16-bit':>12}{'saved':>8}"]
    names = list(dict.fromkeys([*int8.components, *half.components]))
    rows = [(name, int8.components.get(name, 0), half.components.get(name, 0)) for name in names]
    for name, small, large in [*rows, ("total", int8.total, half.total)]:
        saved = f"{1 - small / large:.0%}" if large else ""
        lines.append(f"{name:<14}{format_bytes(small):>12}{format_bytes(large):>12}{saved:>8}")
    return "\n".join(lines)
