"""Pictures of memory plans. Needs matplotlib: pip install "tinyllm[plot]"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import KVCacheConfig
from ..errors import ConfigError

if TYPE_CHECKING:
    from .planning import MemoryPlan

_CONTEXTS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
_COLOURS = "tab20"  # a colour map with more colours than there are components


def plot_plan(planned: MemoryPlan, path: str, memory: int | None = None) -> None:
    """Draw stacked bars of the components over the context into `path`, and a line at `memory` bytes if given.

    Raises ConfigError if matplotlib is missing or cannot write such a file.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("drawing needs matplotlib: pip install 'tinyllm[plot]'") from error
    batch = planned.kv_cache.max_batch_size
    contexts = sorted({*_CONTEXTS, planned.kv_cache.max_seq_len})
    plans = [planned.with_kv_cache(KVCacheConfig(batch, context)) for context in contexts]
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    bottoms = [0.0] * len(plans)
    names = list(plans[0].components) + list(planned.estimates)
    for colour, name in zip(colormaps[_COLOURS].colors, names, strict=False):
        heights = [(one.components | one.estimates).get(name, 0) / 2**30 for one in plans]
        axes.bar([str(context) for context in contexts], heights, bottom=bottoms, label=name, width=0.7, color=colour)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    if memory is not None:
        axes.axhline(memory / 2**30, color="black", linestyle="--", label=f"{memory / 2**30:g} GB")
    axes.set_xlabel("context (tokens a sequence)")
    axes.set_ylabel("GB")
    axes.set_title(f"{planned.config.quantization.value}, batch {batch}, on {planned.device}")
    figure.legend(loc="outside right upper", fontsize="small")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} could not be written: {error}") from error
