"""`tinyllm bench --python`: what of the native rate reaches Python.

With one call for many prompts, and with a thread for each stream. Weights and vocabulary are made up; everything a
user's call does is in it, detokenizing too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._native import engine as native
from .._native.devices import resolve_device
from ..checkpoints.base import Checkpoint
from ..config import KVCacheConfig, ModelConfig
from ..errors import TinyllmError
from ..model import Model
from ..tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..checkpoints.base import TensorInfo

SEED = 1


class MadeUpCheckpoint(Checkpoint):
    """A configuration and a vocabulary of words; no tensors."""

    format = "made-up"

    def __init__(self, name: str, config: ModelConfig) -> None:
        super().__init__(Path(name), config, {}, has_tokenizer=True)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """None: answers have the length asked for."""
        return ()

    def check(self) -> None:
        """There is nothing to compare."""

    def tensors(self) -> Iterator[TensorInfo]:
        """None: weights are made up."""
        return iter(())

    def _open_tokenizer(self) -> Tokenizer:
        import tokenizers

        words = {f"w{index:x}": index for index in range(self.config.vocab_size)}
        backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=words, merges=[]))
        backend.decoder = tokenizers.decoders.ByteLevel()
        return Tokenizer(backend, "made-up vocabulary")


def native_run(bench: Path, args: argparse.Namespace, device: str) -> dict[str, dict[str, Any]]:
    """What tinyllm-bench reports for the same model, batch and lengths: values by kind."""
    command = [bench, "--preset", args.preset, "--device", device, "--dtype", args.dtype, "--prompt", "0"]
    command += ["--batch", args.batch, "--context", args.context, "--generate", args.generate]
    command += ["--repeat", args.repeat, "--no-ceilings", "--json", "-"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise TinyllmError(result.stderr.strip())
    return {row["kind"]: row["values"] for row in json.loads(result.stdout)["results"]}


def made_up_model(shapes: dict[str, Any], args: argparse.Namespace, device_name: str) -> Model:
    """The model of `shapes` with made-up weights, ready to generate."""
    device = resolve_device(device_name)
    flags = ("tie_word_embeddings", "qkv_bias", "qk_norm")  # JSON of the program has numbers for them
    config = ModelConfig(**(shapes | {flag: bool(shapes[flag]) for flag in flags}), dtype=args.dtype)
    kv_cache = KVCacheConfig(max_batch_size=args.batch, max_seq_len=args.context + args.generate + 64)
    engine = native.NativeEngine(native.model_struct(config), native.engine_struct(device.kind, device.index, kv_cache))
    try:
        engine.fill_random(SEED)
        return Model(MadeUpCheckpoint(args.preset, config), config, kv_cache, device, engine)
    except BaseException:
        engine.close()
        raise


def generate_rate(model: Model, prompts: list[list[int]], tokens: int) -> float:
    """Tokens per second of one `generate` call for all prompts, from the moment when all have their first token."""
    begin = time.perf_counter()
    results = model.generate(prompts, max_new_tokens=tokens, temperature=0, ignore_eos=True)
    seconds = time.perf_counter() - begin - max(result.stats.ttft_ms for result in results) / 1000
    return len(prompts) * (tokens - 1) / seconds


def stream_rate(model: Model, prompts: list[list[int]], tokens: int) -> float:
    """Tokens per second that as many threads read, each one stream, from the moment when all have their first."""
    times: list[list[float]] = [[] for _ in prompts]
    barrier = threading.Barrier(len(prompts))

    def read(prompt: list[int], seen: list[float]) -> None:
        barrier.wait()
        stream = model.stream(prompt, max_new_tokens=tokens, temperature=0, ignore_eos=True)
        seen.extend(time.perf_counter() for _ in stream)  # each piece as it comes

    threads = [threading.Thread(target=read, args=pair) for pair in zip(prompts, times, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    start, end = max(seen[0] for seen in times), max(seen[-1] for seen in times)
    return sum(moment > start for seen in times for moment in seen) / (end - start)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line behind `tinyllm bench --python`."""
    parser = argparse.ArgumentParser(prog="tinyllm bench --python", description=__doc__)
    parser.add_argument("--preset", default="smollm2-135m", help="as tinyllm-bench --preset (default: smollm2-135m)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16"])
    parser.add_argument("--batch", type=int, default=64, help="prompts, and streaming threads (default: 64)")
    parser.add_argument("--context", type=int, default=64, help="prompt tokens (default: 64)")
    parser.add_argument("--generate", type=int, default=256, help="tokens of each answer (default: 256)")
    parser.add_argument("--repeat", type=int, default=3, help="runs, of which the median counts (default: 3)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    args = parser.parse_args(arguments)
    for name, least in (("batch", 1), ("context", 1), ("generate", 2), ("repeat", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name} {getattr(args, name)}: expected at least {least}")
    return args


def run(bench: Path, arguments: list[str]) -> int:
    """Measure and print; 0 when done."""
    args = parse(arguments)
    device = resolve_device(args.device).device
    report = native_run(bench, args, device)
    rates = {"native": report["decode"]["tok_per_s"]}
    rng = np.random.default_rng(SEED)
    with made_up_model(report["config"], args, device) as model:
        prompts = rng.integers(0, model.config.vocab_size, (args.batch, args.context)).tolist()
        for name, measure in (("generate", generate_rate), ("stream", stream_rate)):
            measure(model, prompts, min(args.generate, 8))  # captures steps, makes the tokenizer
            rates[name] = statistics.median(measure(model, prompts, args.generate) for _ in range(args.repeat))
    print(
        f"{args.preset} on {device}, {args.batch} sequences, {args.context} + {args.generate} tokens, tokens per second"
    )
    words = {
        "native": "steps alone (tinyllm-bench)",
        "generate": "one generate() call",
        "stream": f"{args.batch} threads that stream",
    }
    for name, rate in rates.items():
        print(f"  {words[name]:<28} {rate:10,.0f}  {rate / rates['native']:5.0%}")
    if args.json:
        figures = {"preset": args.preset, "device": device, "batch": args.batch, "tok_per_s": rates}
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0
