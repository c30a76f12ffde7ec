"""Destroys this process's CUDA context under a loaded model and writes what later calls do, as JSON: call -> outcome.

Run as a program by test_cuda_errors.py: the damage lasts as long as the process.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

import ops_api
import tinyllm
from ops_types import AttentionShape, Batch, Segment, Target
from reference import DATA
from tinyllm import KVCacheConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODEL = DATA / "smollm2"


def outcome(call: Callable[[], object]) -> str:
    """The exception that a call raises, as "class: message", or "done"."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def read_unmapped_memory() -> None:
    """Attention over a page 2^30 pages behind the cache, whose address no allocation holds: a sticky error."""
    batch = Batch.of("decode", [Segment(0, 10, 1)])
    shape = AttentionShape(num_heads=1, num_kv_heads=1, head_dim=64)
    kv = np.zeros(shape.kv_shape(batch.num_pages), np.float32)
    wrong = replace(batch, block_table=batch.block_table + 2**30)
    ops_api.attention(Target(device="cuda"), wrong, shape, np.zeros((1, 64)), kv)


def outcomes() -> Iterator[tuple[str, str]]:
    """Every call of a user who goes on after the error, in order."""
    left_open = tinyllm.load(MODEL, device="cuda")
    warnings.simplefilter("ignore", UserWarning)  # of a context beyond the model's own
    # A context so long that its stream is still running when the error comes.
    model = tinyllm.load(MODEL, device="cuda", kv_cache=KVCacheConfig(1, 65536))
    stream = model.stream([1, 2, 3], ignore_eos=True)
    yield "before", outcome(lambda: next(stream))
    yield "error", outcome(read_unmapped_memory)
    yield "stream", outcome(lambda: list(stream))
    yield "generate", outcome(lambda: model.generate([1, 2, 3], max_new_tokens=2))
    yield "other model", outcome(lambda: left_open.generate([1, 2, 3], max_new_tokens=2))
    yield "load", outcome(lambda: tinyllm.load(MODEL, device="cuda"))
    yield "devices", "; ".join(device.description for device in tinyllm.devices() if device.kind == "cuda")
    yield "close", outcome(model.close)
    with tinyllm.load(MODEL, device="cpu") as on_cpu:
        yield "cpu", outcome(lambda: on_cpu.generate([1, 2, 3], max_new_tokens=2))


if __name__ == "__main__":
    print(json.dumps(dict(outcomes())))
