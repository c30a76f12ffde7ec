"""What stays the same when code only moves: every plan, and the bits that every model of tests/data computes.

    python tools/fingerprint.py write before.json                  # plans, and bits on the CPU, of the library in use
    python tools/fingerprint.py write after.json --device cuda     # the same with bits of a GPU
    python tools/fingerprint.py write plans.json --plans           # plans alone, which need no GPU; --bits: bits alone
    python tools/fingerprint.py compare before.json after.json     # the first differences; exit code 1 if there are any

Plans are the same wherever the number of CPU threads is (2 here, unless TINYLLM_NUM_THREADS says otherwise). Bits
depend on compiler and processor: compare two builds on one machine, each chosen by TINYLLM_LIBRARY, and for every
TINYLLM_CPU_ISA that matters. Only tinyllm's public API is used, so that one version of this file can run before and
after a change of the sources (PYTHONPATH says whose Python). tools/plan_golden.py keeps a digest of the plans.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import sys
import warnings
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tinyllm
from tinyllm import KVCacheConfig, MemoryPlan, Model, ModelConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
SHOWN = 20  # differences that `compare` prints


@dataclass(frozen=True)
class Setting:
    """A KV cache, what a step may take, and the prompts (tokens of each) that run in it."""

    kv_cache: KVCacheConfig
    prompts: tuple[int, ...]
    max_step_tokens: int | None = None


SETTINGS = {
    "1x640": Setting(KVCacheConfig(1, 640), (600,)),  # decode attention on a GPU cuts 512 tokens off
    "4x128": Setting(KVCacheConfig(4, 128), (5, 64, 65)),  # about the 64 tokens of a page
    "3x192": Setting(KVCacheConfig(3, 192, num_pages=3), (1, 37, 100), max_step_tokens=16),  # one waits for pages
}
WEIGHTS: dict[str, dict[str, Any]] = {
    "w8a16-row": {"quantization": "w8a16", "group_size": 0},
    "w8a16-32": {"quantization": "w8a16", "group_size": 32},
    "w8a16-128": {"quantization": "w8a16", "group_size": 128},
    "none": {"quantization": "none"},
}
ACTIVATIONS = {"keep": False, "recompute": True}
# Plans alone, of the sizes that people run.
SHAPES = {
    "shape-7b": ModelConfig(
        vocab_size=32000, hidden_dim=4096, intermediate_dim=11008, num_layers=32, num_heads=32, max_seq_len=4096
    ),
    "shape-8b": ModelConfig(
        vocab_size=128256, hidden_dim=4096, intermediate_dim=14336, num_layers=32, num_heads=32, num_kv_heads=8
    ),
}
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 1.0, "top_k": 30, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 11},
}
NEW_TOKENS = 12


def model_paths() -> dict[str, Path]:
    """Name -> what tinyllm.load takes, of each model of tests/data."""
    found = {}
    for folder in sorted(path for path in DATA.iterdir() if path.is_dir()):
        file = folder / "model.gguf"
        if file.exists() or (folder / "config.json").exists():
            found[folder.name] = file if file.exists() else folder
    if not found:
        raise FileNotFoundError(f"no models in {DATA}")
    return found


def plans(pattern: str = "*") -> Iterator[tuple[str, str, str, MemoryPlan]]:
    """(device, model and weights, activations and setting, plan) of every configuration."""
    models = {name: model for name, model in (model_paths() | SHAPES).items() if fnmatch(name, pattern)}
    grid = itertools.product(("cpu", "cuda"), models, WEIGHTS, ACTIVATIONS, SETTINGS)
    for device, name, weights, activations, setting in grid:
        planned = tinyllm.plan(
            models[name],
            device,
            kv_cache=SETTINGS[setting].kv_cache,
            recompute_activations=ACTIVATIONS[activations],
            max_step_tokens=SETTINGS[setting].max_step_tokens,
            **WEIGHTS[weights],
        )
        yield device, f"{name} {weights}", f"{activations} {setting}", planned


def full_entries(planned: MemoryPlan) -> list[str]:
    """A line an allocation and a line an overhead, in the plan's order."""
    lines = []
    for entry in planned.entries:
        shape = "x".join(map(str, entry.shape))
        lines.append(f"{entry.component} {entry.name} {entry.dtype} {shape} {entry.bytes}")
    for beside in planned.overhead:
        where = "device" if beside.on_device else "host"
        lines.append(f"{where}{' while loading' if beside.only_loading else ''}: {beside.name} {beside.bytes}")
    return lines


def sizes(planned: MemoryPlan) -> dict[str, list[int]]:
    """The bytes of each allocation, sorted, by component, and those of the overhead: what no new name changes."""
    found: dict[str, list[int]] = {}
    for entry in planned.entries:
        found.setdefault(entry.component, []).append(entry.bytes)
    for beside in planned.overhead:
        kind = f"{'device' if beside.on_device else 'host'}{' loading' if beside.only_loading else ''}"
        found.setdefault(f"overhead {kind}", []).append(beside.bytes)
    return {component: sorted(found[component]) for component in sorted(found)}


def token_ids(length: int, vocab_size: int) -> list[int]:
    """A fixed sequence, another one for each length."""
    return [(7919 * (i + 1) + i * i * length + length) % vocab_size for i in range(length)]


def model_bits(model: Model, setting: Setting) -> dict[str, Any]:
    """The logits' SHA-256, and tokens with the bits of their log-probabilities, alone and in one batch."""
    prompts = [token_ids(length, model.config.vocab_size) for length in setting.prompts]
    found: dict[str, Any] = {"logits": hashlib.sha256(model.logits(prompts[-1]).tobytes()).hexdigest()}
    for name, sampling in SAMPLING.items():
        for together in (prompts[-1:], prompts)[: len(prompts)]:
            results = model.generate(together, max_new_tokens=NEW_TOKENS, logprobs=True, ignore_eos=True, **sampling)
            found[f"{name} {'alone' if len(together) == 1 else 'batch'}"] = [
                [result.token_ids, np.asarray(result.logprobs, "<f4").tobytes().hex(), result.finish_reason]
                for result in results
            ]
    return found


def bits(device: str, pattern: str) -> dict[str, Any]:
    """What every model of tests/data computes in every configuration on a device."""
    dtypes = ("float16", "bfloat16", "float32") if device == "cpu" else ("float16", "bfloat16")
    found: dict[str, Any] = {}
    for name, path in model_paths().items():
        if not fnmatch(name, pattern):
            continue
        print(f"\r{name:<40}", end="", file=sys.stderr, flush=True)
        for weights, dtype, activations, setting in itertools.product(WEIGHTS, dtypes, ACTIVATIONS, SETTINGS):
            with tinyllm.load(
                path,
                device,
                kv_cache=SETTINGS[setting].kv_cache,
                max_step_tokens=SETTINGS[setting].max_step_tokens,
                recompute_activations=ACTIVATIONS[activations],
                dtype=dtype,
                progress=False,
                **WEIGHTS[weights],
            ) as model:
                found[f"{name} {weights} {dtype} {activations} {setting}"] = model_bits(model, SETTINGS[setting])
    print(file=sys.stderr)
    return found


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(path, value) of everything in nested dicts."""
    if not isinstance(value, dict):
        yield " / ".join(path), value
        return
    for key, child in value.items():
        yield from leaves(child, (*path, key))


def differences(a: Any, b: Any, names: tuple[str, str]) -> list[str]:
    """A line for each value of two files that is not the same in both, and in a list for its first such item."""
    before, after = dict(leaves(a)), dict(leaves(b))
    found = [f"{key}: only in {names[0]}" for key in before.keys() - after.keys()]
    found += [f"{key}: only in {names[1]}" for key in after.keys() - before.keys()]
    for key in before.keys() & after.keys():
        old, new = before[key], after[key]
        if old == new:
            continue
        if isinstance(old, list) and isinstance(new, list):
            pairs = itertools.zip_longest(old, new)
            at, (old, new) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
            found.append(f"{key} [{at}]:\n  {old}\n  {new}")
        else:
            found.append(f"{key}:\n  {old}\n  {new}")
    return sorted(found)


def main() -> None:
    warnings.simplefilter("ignore", UserWarning)  # contexts beyond a model's own are wanted here
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write")
    write.add_argument("file", type=Path)
    write.add_argument("--device", default="cpu", help="of the bits: cpu, cuda or cuda:N")
    write.add_argument("--models", default="*", help="only models whose names match this, e.g. 'qwen*'")
    only = write.add_mutually_exclusive_group()
    only.add_argument("--bits", action="store_true", help="bits alone")
    only.add_argument("--plans", action="store_true", help="plans alone")
    compare = commands.add_parser("compare")
    compare.add_argument("files", type=Path, nargs=2)
    compare.add_argument(
        "--sizes", action="store_true", help="of plans compare sizes alone: names and order may differ"
    )
    arguments = parser.parse_args()
    os.environ.setdefault("TINYLLM_NUM_THREADS", "2")  # the CPU's scratch is for each thread
    if arguments.command == "write":
        found: dict[str, Any] = {}
        if not arguments.bits:
            for device, model, options, planned in plans(arguments.models):
                key = f"plan {device} {model} {options}"
                found[key] = {"sizes": sizes(planned), "entries": full_entries(planned)}
        if not arguments.plans:
            found[f"bits {arguments.device}"] = bits(arguments.device, arguments.models)
        arguments.file.write_text(json.dumps(found, indent=0) + "\n")
    else:
        before, after = (json.loads(file.read_text()) for file in arguments.files)
        if arguments.sizes:
            for plan in (*before.values(), *after.values()):
                plan.pop("entries", None)
        lines = differences(before, after, (str(arguments.files[0]), str(arguments.files[1])))
        print("\n".join([*lines[:SHOWN], f"{len(lines)} differences in {len(list(leaves(before)))} values"]))
        sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
