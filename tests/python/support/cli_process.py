"""Running the command `tinyllm` as a user does."""

from __future__ import annotations

import subprocess
import sys


def run_cli(*arguments: str, stdin: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `tinyllm ARGUMENTS` in pipes and demand its exit code."""
    result = subprocess.run(
        [sys.executable, "-m", "tinyllm", *arguments], input=stdin, capture_output=True, text=True, check=False
    )
    assert result.returncode == code, result.stderr
    return result
