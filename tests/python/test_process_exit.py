"""An interpreter that ends while a model is open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_model_left_open_does_no_harm_at_exit(device: str) -> None:
    program = Path(__file__).with_name("open_at_exit.py")
    result = subprocess.run([sys.executable, str(program), device], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
