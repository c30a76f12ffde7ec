"""Running a program of this folder in an interpreter of its own, which it may crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run_program(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run tests/python/`name` and give its exit code and output."""
    program = Path(__file__).with_name(name)
    return subprocess.run([sys.executable, str(program), *arguments], capture_output=True, text=True, check=False)
