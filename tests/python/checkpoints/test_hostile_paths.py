"""Paths and files that are not what they should be, and too little memory: always one of tinyllm's own errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import tinyllm
from checkpoint_files import config_json, model_config, random_tensors, write_gguf, write_huggingface
from tinyllm import CheckpointError
from tinyllm.checkpoints import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIG = model_config(config_json(), max_seq_len=256)


def huggingface(directory: Path) -> Path:
    return write_huggingface(directory, config_json(), random_tensors(CONFIG))


def refusal(path: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(path)
    return str(error.value)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("a" * 300, "cannot be read: File name too long"),
        ("/" + "a/" * 3000, "cannot be read: File name too long"),
        ("~nosuchuser/model", "not a usable path"),
        ("model\0.gguf", "cannot be read: embedded null byte"),
        ("\ud800", "surrogates not allowed"),
        ("/dev/null", "expected a .gguf file or a directory"),
        ("", "expected a config.json in this directory"),
        ("no/such/model/here", "no such file or directory"),
        ("/etc/passwd/model", "no such file or directory"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refusal(path)


def test_a_current_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "gone"
    directory.mkdir()
    monkeypatch.chdir(directory)
    directory.rmdir()
    assert "not a usable path" in refusal("model")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes")
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xffdel"))
    huggingface(directory)
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xffdel.gguf"))
    write_gguf(file, CONFIG, random_tensors(CONFIG))
    for path in (directory, file):
        with tinyllm.load(path, device="cpu") as model:
            assert len(model.generate([1, 2], max_new_tokens=2, ignore_eos=True).token_ids) == 2


@pytest.mark.parametrize("name", ["model.gguf", "config.json", "generation_config.json", "model.safetensors"])
@pytest.mark.parametrize(
    ("make", "found"), [(os.mkfifo, "a named pipe"), (os.mkdir, "a directory")], ids=["pipe", "directory"]
)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, name: str, make: Callable[[Path], None], found: str) -> None:
    directory = huggingface(tmp_path / "model")
    (directory / name).unlink(missing_ok=True)
    make(directory / name)
    path = directory / name if name.endswith(".gguf") else directory
    start = time.monotonic()
    message = refusal(path)
    assert time.monotonic() - start < 2
    expected = "expected a config.json" if name.endswith(".gguf") and make is os.mkdir else found
    assert expected in message
    assert str(path) in message


UNREADABLE = """
import os, sys
from tinyllm import CheckpointError
from tinyllm.checkpoints import open_checkpoint
open_checkpoint(sys.argv[1]).close()  # all modules, which the other user may not be able to read
if os.getuid() == 0:
    os.setuid(65534)
for path in sys.argv[2:]:
    try:
        open_checkpoint(path)
        print("opened")
    except CheckpointError as error:
        print(error)
"""


def test_what_may_not_be_read(tmp_path: Path) -> None:
    """By another user than root, who may read everything."""
    for parent in (tmp_path, *tmp_path.parents):
        if os.getuid() == 0 and parent.stat().st_mode & 0o001 == 0 and parent.is_relative_to("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    readable = huggingface(tmp_path / "readable")
    closed = huggingface(tmp_path / "closed")
    files = huggingface(tmp_path / "files")
    (files / "config.json").chmod(0)
    (tmp_path / "parent").mkdir()
    inside = huggingface(tmp_path / "parent" / "model")
    closed.chmod(0)
    (tmp_path / "parent").chmod(0)
    try:
        command = [sys.executable, "-c", UNREADABLE, str(readable), str(closed), str(files), str(inside)]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        closed.chmod(0o755)
        (tmp_path / "parent").chmod(0o755)
    assert child.returncode == 0, child.stderr
    lines = child.stdout.splitlines()
    assert len(lines) == 3
    assert all("cannot be read: Permission denied" in line for line in lines)


def deep(depth: int, inner: str = "1") -> str:
    return '{"a": ' * depth + inner + "}" * depth


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"a": 1} trailing', "not valid JSON: Extra data"),
        (b"[1]", "expected a JSON object, found list"),
        (b"null", "expected a JSON object, found NoneType"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (deep(70).encode(), "nested at most 64 deep"),
        (deep(900).encode(), "nested at most 64 deep"),
        (deep(100_000).encode(), "not valid JSON"),
        (b"[" * 1_000_000, "not valid JSON"),
    ],
)
def test_json_that_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    directory = huggingface(tmp_path / "model")
    if "index" in name:
        (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(content)
    start = time.monotonic()
    message = refusal(directory)
    assert time.monotonic() - start < 5
    assert str(directory / name) in message
    assert words in message


def test_json_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    directory = huggingface(tmp_path / "model")
    os.truncate(directory / "config.json", 1 << 36)
    assert "expected a JSON file of at most 67108864 bytes" in refusal(directory)


ODD_VALUES = [
    None,
    True,
    -1,
    2**31,
    2**70,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\ud800",
    [],
    [[]],
    {},
    {"\ud800": 1},
]


@pytest.mark.filterwarnings("ignore:.*generation settings")
@pytest.mark.parametrize("value", ODD_VALUES, ids=repr)
def test_values_of_any_type_in_any_key(tmp_path: Path, value: Any) -> None:
    """Loads or is refused; a message about it can be printed."""
    directory = huggingface(tmp_path / "model")
    base = config_json(rope_parameters={"rope_type": "yarn", "factor": 2.0}, eos_token_id=1, rope_theta=1e4)
    rope = ("rope_type", "type", "factor", "mscale", "mscale_all_dim", "beta_fast", "attention_factor", "truncate")
    cases = [{**base, key: value} for key in (*base, "sliding_window", "layer_types", "head_dim", "\udfff")]
    cases += [{**base, "rope_parameters": {**base["rope_parameters"], key: value}} for key in rope]
    for case in cases:
        (directory / "config.json").write_text(json.dumps(case))
        try:
            open_checkpoint(directory)
        except CheckpointError as error:
            str(error).encode("utf-8")
    (directory / "config.json").write_text(json.dumps(config_json()))
    for key in ("eos_token_id", "do_sample", "temperature", "top_k", "top_p", "stop_strings", "num_beams", "\udfff"):
        (directory / "generation_config.json").write_text(json.dumps({"do_sample": True, key: value}))
        try:
            open_checkpoint(directory)
        except CheckpointError as error:
            str(error).encode("utf-8")
        except UserWarning as warning:
            str(warning).encode("utf-8")


def test_a_message_quotes_no_more_than_one_can_read(tmp_path: Path) -> None:
    directory = huggingface(tmp_path / "model")
    (directory / "config.json").write_text(json.dumps({**config_json(), "x" * 100_000: 5}))
    message = refusal(directory)
    assert message.startswith(f"{directory / 'config.json'}: unsupported 'xxxx")
    assert message.endswith("remove it from a copy of the file")
    assert len(message) <= 4000


LIMITED = """
import resource, sys
import numpy, ml_dtypes, safetensors.numpy, gguf, tqdm, jinja2, tokenizers
from tinyllm import KVCacheConfig, OutOfMemoryError, load
from tinyllm.checkpoints import open_checkpoint
path, whole = sys.argv[1], sys.argv[2] == "load"
def run():
    if whole:
        with load(path, device="cpu", kv_cache=KVCacheConfig(1, 64)) as model:
            model.generate([1, 2, 3], max_new_tokens=2, ignore_eos=True)
    else:
        for tensor in open_checkpoint(path).tensors():
            tensor.load()
run()
now = int(open("/proc/self/statm").read().split()[0]) * 4096
_, hard = resource.getrlimit(resource.RLIMIT_AS)
outcomes = set()
for step in range(60):
    resource.setrlimit(resource.RLIMIT_AS, (now + int(40_000 * 1.2**step), hard))
    try:
        run()
        outcomes.add("fine")
    except OutOfMemoryError:
        outcomes.add("out of memory")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
print(sorted(outcomes))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of the process is read from /proc")
@pytest.mark.parametrize("kind", ["huggingface", "gguf"])
@pytest.mark.parametrize("what", ["open", "load"])
def test_any_limit_on_memory_is_out_of_memory(tmp_path: Path, kind: str, what: str) -> None:
    values = config_json(vocab_size=40_000, hidden_size=64, intermediate_size=64)
    config = model_config(values, max_seq_len=256)
    tensors = random_tensors(config)
    path = tmp_path / "model.gguf"
    if kind == "gguf":
        write_gguf(path, config, tensors, metadata={"general.tags": [f"word {i}" for i in range(200_000)]})
    else:
        path = write_huggingface(tmp_path / "model", values, tensors)
    child = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), what], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr[-3000:]
    assert child.stdout == "['fine', 'out of memory']\n"
