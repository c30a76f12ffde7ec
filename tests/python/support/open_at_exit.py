"""Ends with a model open and a stream half read, on the device that the argument names. Run by test_process_exit.py."""

from __future__ import annotations

import sys

import tinyllm
from reference import DATA

model = tinyllm.load(DATA / "smollm2", device=sys.argv[1])
stream = model.stream([1, 2, 3], ignore_eos=True)
next(stream)
