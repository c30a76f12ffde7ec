"""A short run of tools/fuzz with fixed seeds, and the corpus: what was found before stays refused."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.__main__ import bases
from fuzz.corpus import findings
from fuzz.mutate import mutate
from fuzz.trees import read_gguf, read_safetensors
from tinyllm.checkpoints import open_checkpoint
from tinyllm.errors import CheckpointError

TOOLS = Path(__file__).parents[3] / "tools"
CASES = 1500  # about 20 seconds; fewer where the machine is so slow that they take more than 45
MODELS = bases()
GGUF = next(model for model in MODELS if b"tokenizer.ggml.tokens" in model.get("model.gguf", b""))
HUGGINGFACE = next(model for model in MODELS if "model.safetensors" in model)


def test_trees_write_what_they_read() -> None:
    for model in MODELS:
        for name, content in model.items():
            if name.endswith(".gguf"):
                assert read_gguf(content).to_bytes() == content
            elif name.endswith(".safetensors"):
                tree = read_safetensors(content)
                assert read_safetensors(tree.to_bytes()) == tree


def test_a_seed_gives_the_same_case_every_time() -> None:
    for seed in range(50):
        first, second = (mutate(GGUF, random.Random(seed)) for _ in range(2))
        assert first == second
    assert sum(mutate(GGUF, random.Random(seed)) != GGUF for seed in range(50)) > 45


FOUND = dict(findings(GGUF, HUGGINGFACE))


@pytest.mark.parametrize("case", FOUND.values(), ids=FOUND.keys())
def test_what_was_found_stays_refused(tmp_path: Path, case: dict[str, bytes]) -> None:
    for file, content in case.items():
        (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "model.gguf" if "model.gguf" in case else tmp_path)


@pytest.mark.slow
def test_a_short_run_finds_nothing() -> None:
    command = [sys.executable, "-m", "fuzz", "--run", "--cases", str(CASES), "--seconds", "45"]
    path = os.pathsep.join([str(TOOLS), os.environ.get("PYTHONPATH", "")])
    child = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120, check=False
    )
    assert child.returncode == 0, child.stdout[-5000:] + child.stderr[-5000:]
