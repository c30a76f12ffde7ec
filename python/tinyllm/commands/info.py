"""`tinyllm info MODEL`: what a checkpoint is and what it would cost, without loading it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .._native.devices import resolve_device
from ..checkpoints import count_parameters, open_checkpoint
from ..config import KVCacheConfig
from ..memory.planning import default_kv_cache, engine_config, make_plan
from ..memory.report import format_bytes
from .console import json_text
from .options import MODEL_HELP, add_model_options

if TYPE_CHECKING:
    import argparse


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "info",
        help="architecture, parameters, tensors and memory plan of a checkpoint",
        description="Prints architecture, parameters, tensors and memory plan; reads headers only.",
    )
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--tensors", action="store_true", help="also list every tensor")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    device = resolve_device(args.device)
    with open_checkpoint(args.model, need_weights=False) as checkpoint:
        config = engine_config(checkpoint.config, args.quantization, args.group_size, args.dtype)
        kv_cache = default_kv_cache(config) if args.max_seq_len is None else KVCacheConfig(max_seq_len=args.max_seq_len)
        tensors = list(checkpoint.tensors())
        planned = make_plan(config, device.kind, kv_cache, rope_freq_factors=checkpoint.rope_freq_factors)
        report = {
            "path": str(checkpoint.path),
            "format": checkpoint.format,
            "has_weights": checkpoint.has_weights,
            "parameters": count_parameters(config),
            "config": {**asdict(config), "quantization": config.quantization.value},
            "kv_cache": asdict(kv_cache),
            "device": device.device,
            "plan": planned.components,
            "tensors": [
                {
                    "name": tensor.name,
                    "stored_name": tensor.stored_name,
                    "shape": tensor.shape,
                    "dtype": tensor.dtype,
                    "bytes": tensor.stored_bytes,
                }
                for tensor in tensors
            ],
        }
    if args.json:
        print(json_text(report))
    else:
        _print(report, args.tensors)
    return 0


def _print(report: dict[str, Any], with_tensors: bool) -> None:
    tensors, kv_cache, plan = report["tensors"], report["kv_cache"], report["plan"]
    stored = format_bytes(sum(tensor["bytes"] for tensor in tensors))
    types = ", ".join(sorted({tensor["dtype"] for tensor in tensors}))
    print(f"{report['path']} ({report['format']})")
    where = "stored as" if report["has_weights"] else "to be stored as (there is config.json only)"
    print(f"  {report['parameters']:,} parameters in {len(tensors)} tensors, {stored} {where} {types}")
    for name, value in report["config"].items():
        print(f"  {name:<28} {value}")
    if with_tensors:
        print("tensors")
        for tensor in tensors:
            shape = " x ".join(map(str, tensor["shape"]))
            print(f"  {tensor['name']:<48} {shape:>16}  {tensor['dtype']:<6} {format_bytes(tensor['bytes']):>10}")
    print(f"memory on {report['device']} for {kv_cache['max_batch_size']} x {kv_cache['max_seq_len']} tokens")
    for component, size in {**plan, "total": sum(plan.values())}.items():
        print(f"  {component:<14}{format_bytes(size):>12}")
