"""Ends while a daemon thread waits for a long step, on the device that the argument names.

Run by test_process_exit.py.
"""

from __future__ import annotations

import sys
import threading

import tinyllm
from reference import DATA
from tinyllm import KVCacheConfig

# Steps of many tokens: far longer than the interpreter needs to end.
CACHE = KVCacheConfig(max_batch_size=1, max_seq_len=16384)
model = tinyllm.load(DATA / "smollm2", device=sys.argv[1], kv_cache=CACHE, max_step_tokens=16384)
stream = model.stream([1] * 16000, max_new_tokens=1)
threading.Thread(target=lambda: next(stream), daemon=True).start()
