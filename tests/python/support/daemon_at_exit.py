"""Ends while a daemon thread runs a step, on the device that the argument names. Run by test_process_exit.py."""

from __future__ import annotations

import sys
import threading

import tinyllm
from reference import DATA
from tinyllm import KVCacheConfig

# Steps of many tokens: far longer than the interpreter needs to end.
CACHE = KVCacheConfig(max_batch_size=1, max_seq_len=16384)
model = tinyllm.load(DATA / "smollm2", device=sys.argv[1], kv_cache=CACHE, max_step_tokens=16384)
stepping = threading.Event()
step = model._engine.step


def announced_step() -> None:
    stepping.set()
    step()


model._engine.step = announced_step
threading.Thread(target=lambda: model.generate([1] * 16000, max_new_tokens=1), daemon=True).start()
stepping.wait()
