"""What a checkpoint may do to its reader: load, or raise one of tinyllm's own errors, in bounded time and memory."""

from __future__ import annotations

import resource
import signal
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tinyllm
from tinyllm.checkpoints import open_checkpoint

if TYPE_CHECKING:
    from .mutate import Case

SECONDS = 10  # for one small file, on a busy machine
HEAP_BYTES = 1 << 30


def limit_memory() -> None:
    """Let this process have HEAP_BYTES more than it has."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + HEAP_BYTES, hard))


class _TooSlow(BaseException):
    pass


def _too_slow(*_: Any) -> None:
    raise _TooSlow


def problem(case: Case, run: bool, tokenizer: bool) -> str | None:
    """What is wrong with the way in which `case` is handled; None if nothing is.

    `run` has the models that open generate, `tokenizer` has their tokenizers made.
    """
    with tempfile.TemporaryDirectory(prefix="tinyllm-fuzz-") as folder:
        for name, content in case.items():
            (Path(folder) / name).write_bytes(content)
        path = Path(folder) / "model.gguf" if "model.gguf" in case else Path(folder)
        signal.signal(signal.SIGALRM, _too_slow)
        signal.alarm(SECONDS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _use(path, run, tokenizer)
        except tinyllm.OutOfMemoryError as error:
            return f"takes more than {HEAP_BYTES} bytes: {error}"
        except tinyllm.TinyllmError as error:
            return _problem_of_message(error)
        except _TooSlow:
            return f"takes more than {SECONDS} seconds:\n{traceback.format_exc()}"
        except BaseException:  # PanicException of the Rust packages is one
            return traceback.format_exc()
        finally:
            signal.alarm(0)
    return None


def _use(path: Path, run: bool, tokenizer: bool) -> None:
    with open_checkpoint(path) as checkpoint:
        for tensor in checkpoint.tensors():
            tensor.load()
        if tokenizer and checkpoint.has_tokenizer:
            made = checkpoint.tokenizer
            made.decode(made.encode("The quick brown fox \u2581 <s> 123"))
        has_tokenizer = checkpoint.has_tokenizer
    if run and (tokenizer or not has_tokenizer):
        cache = tinyllm.KVCacheConfig(1, 32)
        with tinyllm.load(path, "cpu", "none", kv_cache=cache, progress=False) as model:
            model.generate([0, 0, 0], tinyllm.GenerationConfig(max_new_tokens=2, ignore_eos=True))


def _problem_of_message(error: tinyllm.TinyllmError) -> str | None:
    message = str(error)
    try:
        message.encode()
    except UnicodeEncodeError:
        return f"has an error that cannot be printed: {message!r:.500}"
    return f"has an error of {len(message)} characters: {message:.500}" if len(message) > 5_000 else None
