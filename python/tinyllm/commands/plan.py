"""`tinyllm plan MODEL`: the memory of a model before it is loaded."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import KVCacheConfig, QuantizationType
from ..errors import ConfigError
from ..memory.planning import MemoryPlan, comparison_table, plan
from ..memory.report import format_bytes
from .console import json_text, say
from .options import MODEL_HELP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_LARGEST_SIZE = 1 << 63  # bytes; more than any memory
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_GRID_CONTEXTS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
_GRID_BATCHES = (1, 2, 4, 8, 16, 32, 64)


def parse_size(text: str) -> int:
    """Bytes of "24GB", "80 GiB", "512M" or "1000000"; 1 GB is 2^30 bytes, as GPU tools print it."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write for example 24GB or 512MB")
    size = float(match[1]) * _UNITS[match[2].upper()]  # infinite for hundreds of digits
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no memory; write for example 24GB or 512MB")
    if size > _LARGEST_SIZE:
        raise argparse.ArgumentTypeError(f"{text!r} is more than any memory; write for example 24GB or 512MB")
    return int(size)


def parse_counts(text: str) -> list[int]:
    """Whole numbers of "2048" or "512,2048,8192"."""
    if re.fullmatch(r"\d+(,\d+)*", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor several, as in 512,2048,8192")
    return [int(count) for count in text.split(",")]


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "plan",
        help="what a model needs in memory, and what fits",
        description="Prints the memory of a model by component, to the byte, reading headers only (config.json is "
        "enough); needs no GPU. With --gpu-memory also which contexts and batches fit, and exit code 1 if the model "
        "does not. 1 MB is 2^20 bytes, 1 GB is 2^30, as GPU tools print them.",
    )
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument(
        "--device", default="cuda", help="cuda (default) or cpu, whose layouts differ slightly; neither need be there"
    )
    parser.add_argument(
        "--quantization", default=QuantizationType.W8A16.value, choices=[member.value for member in QuantizationType]
    )
    parser.add_argument("--group-size", type=int, default=128, metavar="N", help="default: %(default)s")
    parser.add_argument("--dtype", default="auto", help="as in 'tinyllm generate'")
    parser.add_argument(
        "--context",
        type=parse_counts,
        default=[],
        metavar="N,...",
        help="tokens a sequence (default: 2048, or the model's if shorter); of several the first is planned, all are "
        "rows of the grid and bars of the plot",
    )
    parser.add_argument(
        "--batch",
        type=parse_counts,
        default=[1],
        metavar="N,...",
        help="sequences at a time (default: 1); of several likewise, columns",
    )
    parser.add_argument("--recompute-activations", action="store_true", help="less activation memory for more time")
    parser.add_argument("--gpu-memory", type=parse_size, metavar="SIZE", help="for example 24GB: mark what fits")
    parser.add_argument("--entries", action="store_true", help="list every allocation")
    parser.add_argument("--compare", action="store_true", help="int8 beside 16-bit weights, by component")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the components over the context (needs matplotlib)")
    parser.set_defaults(run=run, flags={"max_seq_len": "--context", "max_batch_size": "--batch"})


def run(args: argparse.Namespace) -> int:
    contexts = args.context if len(args.context) > 1 else _GRID_CONTEXTS
    batches = args.batch if len(args.batch) > 1 else _GRID_BATCHES
    if args.gpu_memory is None and (len(args.batch) > 1 or (len(args.context) > 1 and not args.plot)):
        raise ConfigError(
            "several values of --context or --batch make the grid of --gpu-memory, which is not given"
            " (several of --context also the bars of --plot)"
        )
    planned = plan(
        args.model,
        args.device,
        args.quantization,
        args.group_size,
        recompute_activations=args.recompute_activations,
        dtype=args.dtype,
    )
    context = args.context[0] if args.context else planned.kv_cache.max_seq_len
    planned = planned.with_kv_cache(KVCacheConfig(args.batch[0], context))
    if args.plot:
        from ..memory.plotting import plot_plan

        name = Path(args.model).resolve().name
        plot_plan(planned, args.plot, args.gpu_memory, args.context if len(args.context) > 1 else (), name)
        say(f"{args.plot} written")
    code = 0 if args.gpu_memory is None or planned.fits(args.gpu_memory) else 1
    if args.json:
        print(json_text(_report(planned, args.compare, args.gpu_memory, contexts, batches)))
        return code
    print(f"{args.model}: {args.batch[0]} x {context} tokens on {planned.device} (1 MB = 2^20 bytes)")
    print(planned.table(args.entries))
    if args.compare:
        print(f"\n{comparison_table(planned)}")
    if args.gpu_memory is not None:
        grid = _grid_table(fit_grid(planned, args.gpu_memory, contexts, batches), contexts, batches)
        print(f"\n{_verdict(planned, args.gpu_memory)}\n\n{grid}")
    return code


def _report(
    planned: MemoryPlan, compare: bool, memory: int | None, contexts: Sequence[int], batches: Sequence[int]
) -> dict[str, Any]:
    report = planned.to_dict()
    if compare:
        report["compare"] = {
            one.config.quantization.value: {"components": one.components, "total": one.total}
            for one in map(planned.with_quantization, QuantizationType)
        }
    if memory is not None:
        report |= {
            "memory": memory,
            "fits": planned.fits(memory),
            "max_seq_len": planned.max_seq_len(memory),
            "max_batch": planned.max_batch(memory),
            "grid": fit_grid(planned, memory, contexts, batches),
        }
    return report


def _verdict(planned: MemoryPlan, memory: int) -> str:
    kv = planned.kv_cache
    words = "fits into" if planned.fits(memory) else "does NOT fit into"
    longest, made_for = planned.max_seq_len(memory), planned.config.max_seq_len
    note = f" (the model is made for {made_for})" if longest > made_for else ""
    return (
        f"{format_bytes(planned.needed)} {words} {format_bytes(memory)}; largest context at batch {kv.max_batch_size}: "
        f"{longest} tokens{note}; largest batch at {kv.max_seq_len} tokens: {planned.max_batch(memory)}"
    )


def fit_grid(planned: MemoryPlan, memory: int, contexts: Sequence[int], batches: Sequence[int]) -> list[dict[str, Any]]:
    """What each context and batch needs, estimates included, and whether it fits: a dict a cell, row by row."""
    cells = []
    for context in contexts:
        for batch in batches:
            cell = planned.with_kv_cache(KVCacheConfig(batch, context))
            cells.append({"context": context, "batch": batch, "needed": cell.needed, "fits": cell.fits(memory)})
    return cells


def _grid_table(cells: Sequence[Mapping[str, Any]], contexts: Sequence[int], batches: Sequence[int]) -> str:
    """Contexts down, batches across; what is needed where it fits, a dash where it does not."""
    texts = iter(f"{format_bytes(cell['needed']) if cell['fits'] else '-':>11}" for cell in cells)
    lines = ["context \\ batch" + "".join(f"{batch:>11}" for batch in batches)]
    lines += [f"{context:>15}" + "".join(next(texts) for _ in batches) for context in contexts]
    return "\n".join(lines)
