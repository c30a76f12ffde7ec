"""The test run itself: what this machine lacks is skipped, and failed with --require-gpu.

So no run is green for having done nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NEEDS_THE_MODEL = Path(__file__).with_name("test_planning.py"), "-k", "the_real_model_costs and cpu"


@pytest.mark.slow
@pytest.mark.parametrize(("options", "code", "outcome"), [([], 0, "1 skipped"), (["--require-gpu"], 1, "1 error")])
def test_a_model_that_cannot_be_fetched(tmp_path: Path, options: list[str], code: int, outcome: str) -> None:
    no_folder = tmp_path / "file"
    no_folder.touch()
    environment = {**os.environ, "TINYLLM_CACHE": str(no_folder)}
    environment.pop("TINYLLM_TEST_GGUF", None)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *NEEDS_THE_MODEL, *options]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stdout
    assert outcome in result.stdout
    assert "SmolLM2-135M-Instruct could not be fetched" in result.stdout
