"""A program: loads a model 30 times and prints the memory that stays.

Printed are the largest resident size after loads 6 to 15 and after the later ones, and the bytes that are still alive.
What malloc or a driver keeps for later is there after a few loads.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tinyllm
from debug_hooks import live_bytes

sizes = []
for _ in range(30):
    with tinyllm.load(sys.argv[1], device=sys.argv[2]) as model:
        model.generate([1, 2, 3], max_new_tokens=3, ignore_eos=True)
    sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
print(max(sizes[5:15]), max(sizes[15:]), live_bytes())
