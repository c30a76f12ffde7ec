"""Models by name: a hub on this machine that answers, is cut in the middle, stalls, or answers nonsense."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from checkpoint_files import config_json, model_config, random_tensors, write_huggingface
from small_server import Answer, serve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"

CHILD = """
import sys
from tinyllm import CheckpointError
from tinyllm.checkpoints import open_checkpoint
try:
    print("loaded", open_checkpoint("owner/model").config.hidden_dim)
except CheckpointError as error:
    print("refused", error)
"""


def hub(directory: Path, broken: Answer | None = None, listing: bytes | None = None) -> Callable[[str], Answer]:
    """Answers of a hub that has the files of `directory`; `broken` replaces the weights, `listing` the list."""
    names = sorted(path.name for path in directory.iterdir())

    def answer(path: str) -> Answer:
        path = path.partition("?")[0]
        if path.startswith("/api/models/owner/model/xet"):
            return Answer(status=404)
        if listing is None and path.startswith("/api/models/owner/model/tree/"):
            files = [{"type": "file", "path": name, "oid": "0" * 40, "size": _size(directory / name)} for name in names]
            return Answer(json.dumps(files).encode(), headers={"Content-Type": "application/json"})
        if path.startswith("/api/models/owner/model"):
            siblings = [{"rfilename": name} for name in names]
            body = json.dumps({"id": "owner/model", "sha": COMMIT, "siblings": siblings}).encode()
            return Answer(listing if listing is not None else body, headers={"Content-Type": "application/json"})
        name = path.rpartition("/")[2]
        if name not in names:
            return Answer(status=404)
        body = (directory / name).read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if broken is not None and name == "model.safetensors":
            return Answer(body, broken.status, {**headers, **broken.headers}, broken.sent, broken.stalls)
        return Answer(body, headers=headers)

    return answer


def _size(path: Path) -> int:
    return path.stat().st_size


def open_in_child(address: str, home: Path) -> tuple[str, float]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_HUB_ETAG_TIMEOUT": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    start = time.monotonic()
    command = [sys.executable, "-c", CHILD]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert child.returncode == 0, child.stderr
    return child.stdout, time.monotonic() - start


@pytest.fixture
def model(tmp_path: Path) -> Path:
    values = config_json()
    return write_huggingface(tmp_path / "model", values, random_tensors(model_config(values)))


def test_a_model_is_fetched_by_name(model: Path, tmp_path: Path) -> None:
    with serve(hub(model)) as (address, asked):
        output, _ = open_in_child(address, tmp_path / "home")
        assert output == "loaded 32\n"
        assert not any("onnx" in path for path in asked)


@pytest.mark.parametrize(
    "broken",
    [Answer(sent=1000), Answer(sent=1000, stalls=True), Answer(status=403), Answer(status=416)],
    ids=["cut", "stalled", "forbidden", "nonsense"],
)
def test_a_broken_download_says_what_to_do(model: Path, tmp_path: Path, broken: Answer) -> None:
    with serve(hub(model, broken)) as (address, _):
        output, seconds = open_in_child(address, tmp_path / "home")
    assert output.startswith("refused owner/model: no such file or directory, and the Hugging Face Hub could not")
    assert "hf download owner/model" in output
    assert seconds < 120


@pytest.mark.parametrize("listing", [b"", b"{", b"[]", b'{"siblings": 3}'])
def test_a_list_of_files_that_is_no_list(model: Path, tmp_path: Path, listing: bytes) -> None:
    with serve(hub(model, listing=listing)) as (address, _):
        output, _ = open_in_child(address, tmp_path / "home")
    assert output.startswith("refused owner/model: ")
