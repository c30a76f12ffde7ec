"""Pictures of memory plans. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import KVCacheConfig
from ..errors import ConfigError
from .report import format_bytes, size_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from .planning import MemoryPlan

_CONTEXTS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
_COLOURS = "tab20"  # a colour map with more colours than there are components


def plot_plan(
    planned: MemoryPlan,
    path: str,
    memory: int | None = None,
    contexts: Sequence[int] = (),
    name: str = "",
) -> None:
    """Draw stacked bars of the components over the context into `path`, and a line at `memory` bytes if given.

    Args:
        planned: the model, its batch and device.
        path: of the picture; its ending says which kind.
        memory: of the device, in bytes.
        contexts: the bars, in tokens; without them the usual ones and the plan's own.
        name: of the model, for the title.

    Raises ConfigError if matplotlib is missing or cannot write such a file.
    """
    figure = plan_figure(planned, memory, contexts, name)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} could not be written: {error}") from error


def plan_figure(planned: MemoryPlan, memory: int | None, contexts: Sequence[int], name: str) -> Figure:
    """The picture that `plot_plan` writes."""
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("drawing needs matplotlib: pip install matplotlib") from error
    batch = planned.kv_cache.max_batch_size
    bars = sorted({*contexts} or {*_CONTEXTS, planned.kv_cache.max_seq_len})
    plans = [planned.with_kv_cache(KVCacheConfig(batch, context)) for context in bars]
    unit, unit_name = size_unit(max(memory or 0, *(one.needed for one in plans)))
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    bottoms = [0.0] * len(plans)
    components = list(plans[0].components) + list(planned.estimates)
    for colour, component in zip(colormaps[_COLOURS].colors, components, strict=False):
        heights = [(one.components | one.estimates).get(component, 0) / unit for one in plans]
        axes.bar(list(map(str, bars)), heights, bottom=bottoms, label=component, width=0.7, color=colour)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    if memory is not None:
        axes.axhline(memory / unit, color="black", linestyle="--", label=format_bytes(memory))
    axes.set_xlabel("context (tokens a sequence)")
    axes.set_ylabel(unit_name)
    title = f"{planned.config.quantization.value}, batch {batch}, on {planned.device}"
    axes.set_title(f"{name}: {title}" if name else title)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure
