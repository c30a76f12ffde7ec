"""Memory: what was planned, what is allocated, what the device has left."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .html import html_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._native.abi import CDeviceMemory, COverheadEntry, CPlanEntry
    from .._native.engine import NativeEngine

_UNITS = ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB"))


def format_bytes(count: int) -> str:
    """A size for people: 1 MB is 2^20 bytes, as GPU tools print it."""
    if count < 0:
        return f"-{format_bytes(-count)}"
    size, unit = size_unit(count)
    return f"{count / size:.2f} {unit}" if size > 1 else f"{count} B"


def size_unit(count: int) -> tuple[int, str]:
    """The largest unit of which `count` bytes have one or more, and its name: (2^20, "MB") for 300 MB."""
    return next(((size, unit) for size, unit in _UNITS if count >= size), (1, "B"))


@dataclass(frozen=True)
class PlanEntry:
    """One allocation of a plan."""

    component: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Overhead:
    """Memory that an engine takes beside its plan; a plan names it, at most `bytes`."""

    name: str
    on_device: bool  # of a GPU; else of the host
    only_loading: bool  # gone once the weights are loaded
    bytes: int


@dataclass(frozen=True)
class Allocation:
    """One live allocation; only with a library built with CUDA_MEMORY_TRACKING=ON."""

    component: str
    name: str
    bytes: int
    file: str
    line: int


@dataclass(frozen=True)
class Tracked:
    """What the engine's tracker knows of one component, or of all."""

    bytes: int  # now
    peak: int  # largest value that `bytes` ever had
    allocated: int  # bytes of all allocations that there ever were
    live: int  # allocations now
    allocations: int  # that there ever were


@dataclass(frozen=True, repr=False)
class MemoryReport:
    """Memory of one model, in bytes.

    Components: weights, scales, embedding, norms (with biases and RoPE frequencies), kv_cache, activations, logits,
    workspace, and staging (only while loading).
    """

    planned: dict[str, int]  # component -> bytes the plan names
    tracked: dict[str, Tracked]  # every component -> what was allocated
    tracked_total: Tracked  # its peak is the largest sum that there ever was, not the sum of the peaks
    free: int  # of the device, now
    total: int  # of the device
    # What the GPU's driver took for this process beside `actual`, by its own count of free bytes: context, modules
    # (code of the kernels used so far), code reserve (held back for those to come), graphs, pool (held but not
    # allocated), other models, unexplained (other processes, other code of this one). Empty on the CPU.
    driver: dict[str, int]
    # Free bytes that the driver lost since before the process had a context: actual_total and all of `driver`.
    lost: int
    entries: tuple[PlanEntry, ...]  # the plan, allocation by allocation
    allocations: tuple[Allocation, ...]  # empty unless built with CUDA_MEMORY_TRACKING
    kv_pages: int  # of the KV cache, 64 tokens each
    kv_pages_free: int  # of these, held by no request now

    @property
    def planned_total(self) -> int:
        """Bytes of all components as planned."""
        return sum(self.planned.values())

    @property
    def actual(self) -> dict[str, int]:
        """Component -> bytes that are allocated now."""
        return {name: tracked.bytes for name, tracked in self.tracked.items() if tracked.bytes}

    @property
    def actual_total(self) -> int:
        """Bytes that are allocated now."""
        return self.tracked_total.bytes

    @property
    def peak(self) -> int:
        """The largest value that `actual_total` ever had."""
        return self.tracked_total.peak

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def __repr__(self) -> str:
        sizes = f"{format_bytes(self.actual_total)} of {format_bytes(self.planned_total)} planned"
        return f"<tinyllm.MemoryReport: {sizes}, peak {format_bytes(self.peak)}; {self._device_line()}>"

    def _repr_html_(self) -> str:
        return html_table(self._device_line(), *self._table())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def _device_line(self) -> str:
        return f"device: {format_bytes(self.free)} free of {format_bytes(self.total)}"

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header and rows."""
        used = {name: tracked for name, tracked in self.tracked.items() if tracked.allocations}
        sizes = {name: (self.planned.get(name, 0), tracked) for name, tracked in used.items()}
        rows = [
            (name, *map(format_bytes, (planned, tracked.bytes, tracked.peak)), str(tracked.live))
            for name, (planned, tracked) in {**sizes, "total": (self.planned_total, self.tracked_total)}.items()
        ]
        driver = {**self.driver, "driver lost": self.lost} if self.driver else {}
        rows += [(name, "", format_bytes(size), "", "") for name, size in driver.items()]
        return ("component", "planned", "actual", "peak", "allocations"), rows

    def _lines(self) -> Iterator[str]:
        header, rows = self._table()
        for name, *cells in (header, *rows):
            yield f"{name:<14}{''.join(f'{cell:>14}' for cell in cells)}".rstrip()
        yield self._device_line()


def plan_entries(raw: list[CPlanEntry]) -> tuple[PlanEntry, ...]:
    """The native plan as plain values."""
    return tuple(
        PlanEntry(e.component.decode(), e.name.decode(), e.dtype.decode(), tuple(e.shape[: e.num_dims]), e.bytes)
        for e in raw
    )


def overhead_entries(raw: list[COverheadEntry]) -> tuple[Overhead, ...]:
    """The native list as plain values."""
    return tuple(Overhead(e.name.decode(), bool(e.on_device), bool(e.only_loading), e.bytes) for e in raw)


def by_component(entries: tuple[PlanEntry, ...]) -> dict[str, int]:
    """Bytes summed over each component, in the order of the plan."""
    sums: dict[str, int] = {}
    for entry in entries:
        sums[entry.component] = sums.get(entry.component, 0) + entry.bytes
    return sums


def _driver_lines(memory: CDeviceMemory) -> dict[str, int]:
    return {
        "context": memory.context_bytes,
        "modules": memory.module_bytes,
        "code reserve": memory.reserve_bytes,
        "graphs": memory.graph_bytes,
        "pool": memory.pool_bytes,
        "other models": memory.other_engine_bytes,
        "unexplained": memory.unexplained_bytes,
    }


def memory_report(engine: NativeEngine) -> MemoryReport:
    """The report of a live engine."""
    entries = plan_entries(engine.plan())
    tracked = {
        row.component.decode(): Tracked(
            row.current_bytes, row.peak_bytes, row.total_bytes, row.live_count, row.total_count
        )
        for row in engine.memory()
    }
    total = tracked.pop("total")
    device = engine.device_memory()
    kv_pages_free, kv_pages = engine.pages()
    return MemoryReport(
        planned=by_component(entries),
        tracked=tracked,
        tracked_total=total,
        free=device.free_bytes,
        total=device.total_bytes,
        driver=_driver_lines(device) if device.lost_bytes else {},
        lost=device.lost_bytes,
        entries=entries,
        allocations=tuple(
            Allocation(a.component.decode(), a.name.decode(), a.bytes, a.file.decode(), a.line)
            for a in engine.allocations()
        ),
        kv_pages=kv_pages,
        kv_pages_free=kv_pages_free,
    )
