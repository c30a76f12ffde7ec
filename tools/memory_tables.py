"""The tables of docs/memory-model.md, computed by the planner.

`python tools/memory_tables.py` prints them, `--write` puts them into the page. A test compares the page with what this
prints.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyllm import KVCacheConfig, ModelConfig, QuantizationType, plan

if TYPE_CHECKING:
    from tinyllm.memory.planning import MemoryPlan

PAGE = Path(__file__).resolve().parents[1] / "docs" / "memory-model.md"
BEGIN, END = "<!-- tables: begin (python tools/memory_tables.py --write) -->", "<!-- tables: end -->"

# Llama 2 7B, the model of the specification.
CONFIG = ModelConfig(
    vocab_size=32000,
    hidden_dim=4096,
    intermediate_dim=11008,
    num_layers=32,
    num_heads=32,
    max_seq_len=4096,
    dtype="float16",
)
# The table that the project started from, in MB; 13.8 GB in all.
PUBLISHED = {"attention QKV": 150, "attention output": 16, "FFN gate + up + down": 264, "a layer": 430}

MB = 1 << 20
DEVICE = "cpu"  # the same bytes as "cuda": every dimension is a multiple of the CUDA padding


def planned(config: ModelConfig = CONFIG, batch: int = 1, context: int = 2048, **options: Any) -> MemoryPlan:
    """The plan on DEVICE."""
    return plan(config, DEVICE, kv_cache=KVCacheConfig(batch, context), **options)


def weights_table() -> list[str]:
    """int8 and 16-bit bytes of a layer's matrices, beside the published figures."""
    plans = {q: planned(replace(CONFIG, quantization=q)) for q in QuantizationType}

    def size(quantization: QuantizationType, *names: str) -> float:
        wanted = {f"layers.0.{name}.weight" for name in names}
        return sum(entry.bytes for entry in plans[quantization].entries if entry.name in wanted) / MB

    rows = {
        "attention QKV": ["qkv"],
        "attention output": ["o_proj"],
        "FFN gate + up + down": ["gate_up", "down_proj"],
        "a layer": ["qkv", "o_proj", "gate_up", "down_proj"],
    }
    lines = ["| 7B weights | int8 | 16-bit | saved | published int8 |", "|---|---|---|---|---|"]
    for label, names in rows.items():
        int8, half = size(QuantizationType.W8A16, *names), size(QuantizationType.NONE, *names)
        lines.append(f"| {label} | {int8:.0f} MB | {half:.0f} MB | {1 - int8 / half:.0%} | {PUBLISHED[label]} MB |")
    layer8, layer16 = size(QuantizationType.W8A16, *rows["a layer"]), size(QuantizationType.NONE, *rows["a layer"])
    lines.append(
        f"| {CONFIG.num_layers} layers | {layer8 * 32 / 1024:.2f} GB | {layer16 * 32 / 1024:.2f} GB | 50% | 13.8 GB |"
    )
    for component in ("scales", "embedding", "norms"):
        small, large = (
            plans[q].components.get(component, 0) / MB for q in (QuantizationType.W8A16, QuantizationType.NONE)
        )
        lines.append(f"| {component}, of the whole model | {small:.1f} MB | {large:.1f} MB | | |")
    head8, head16 = (
        sum(entry.bytes for entry in plans[q].entries if entry.name == "lm_head.weight") / MB
        for q in (QuantizationType.W8A16, QuantizationType.NONE)
    )
    lines.append(f"| output matrix | {head8:.0f} MB | {head16:.0f} MB | 50% | |")
    return lines


def kv_table() -> list[str]:
    """The KV cache over context and batch."""
    batches = (1, 4, 8)
    lines = [
        "| tokens per sequence | " + " | ".join(f"batch {batch}" for batch in batches) + " |",
        "|---|" + "---|" * 3,
    ]
    for context in (512, 1024, 2048, 4096):
        sizes = [planned(batch=batch, context=context).components["kv_cache"] / MB for batch in batches]
        lines.append(f"| {context} | " + " | ".join(f"{size:,.0f} MB" for size in sizes) + " |")
    return lines


def activations_table() -> list[str]:
    """Activation buffers of a 2048-token prompt in one chunk, with and without recomputing, and the logits."""
    plans = [planned(max_step_tokens=2048, recompute_activations=again) for again in (False, True)]
    lines = ["| 7B, batch 1, 2048 tokens in one chunk | kept | recomputed |", "|---|---|---|"]
    for first, second in zip(*(one.entries for one in plans), strict=True):
        if first.component == "activations":
            lines.append(f"| `{first.name}` | {first.bytes / MB:.2f} MB | {second.bytes / MB:.2f} MB |")
    for component in ("activations", "logits"):
        cells = " | ".join(f"{one.components[component] / MB:.2f} MB" for one in plans)
        lines.append(f"| **{component}** | {cells} |")
    return lines


def tables() -> str:
    """All tables as Markdown."""
    return "\n\n".join("\n".join(table()) for table in (weights_table, kv_table, activations_table))


def page_tables(page: str) -> str:
    """What stands between the markers of the page."""
    return page.split(BEGIN)[1].split(END)[0].strip()


def main() -> None:
    if "--write" in sys.argv[1:]:
        page = PAGE.read_text()
        PAGE.write_text(page.split(BEGIN)[0] + f"{BEGIN}\n\n{tables()}\n\n{END}" + page.split(END)[1])
    else:
        print(tables())


if __name__ == "__main__":
    main()
