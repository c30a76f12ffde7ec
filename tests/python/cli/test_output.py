"""The command line in terminals and pipes of every kind: no traceback, and the right exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tinyllm
from checkpoint_files import config_json, model_config, random_tensors, write_huggingface
from cli_process import run_cli as run
from reference import DATA

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = str(DATA / "smollm2")
GENERATE = ["generate", MODEL, "the cat", "--max-new-tokens", "4", "--device", "cpu"]


def start(
    *arguments: str,
    stdin: object = subprocess.DEVNULL,
    stdout: object = subprocess.PIPE,
    closed: tuple[int, ...] = (),
    encoding: str | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run `tinyllm ARGUMENTS` with standard files of a certain kind."""

    def close_files() -> None:
        for number in closed:
            os.close(number)

    environment = os.environ | ({"PYTHONIOENCODING": encoding} if encoding else {})
    result = subprocess.run(
        [sys.executable, "-m", "tinyllm", *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
        env=environment,
        preexec_fn=close_files,  # this process has no threads that hold a lock then
    )
    assert b"Traceback" not in result.stderr, result.stderr.decode()
    assert b"Exception ignored" not in result.stderr, result.stderr.decode()
    return result


@pytest.fixture(scope="module")
def named_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose name no 8-bit terminal can show."""
    config = config_json()
    return write_huggingface(
        tmp_path_factory.mktemp("names") / "modèle-中🙂", config, random_tensors(model_config(config))
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_terminals_that_are_not_utf8(named_model: Path, encoding: str) -> None:
    text = start("info", str(named_model), "--device", "cpu", encoding=encoding)
    assert text.returncode == 0
    shown = text.stdout.decode(encoding).splitlines()[0]
    assert shown.startswith(str(named_model).encode(encoding, "replace").decode(encoding))
    # What is written for programs is exact everywhere.
    report = start("info", str(named_model), "--device", "cpu", "--json", encoding=encoding)
    assert report.returncode == 0
    assert json.loads(report.stdout)["path"] == str(named_model)


@pytest.mark.parametrize(
    "arguments", [GENERATE, [*GENERATE, "--json"], ["info", MODEL], ["plan", MODEL, "--json"], ["--help"], ["devices"]]
)
def test_a_full_disk_is_an_error(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        result = start(*arguments, stdout=full)
    assert result.returncode == 1
    assert result.stderr.decode() == "tinyllm: error: standard output cannot be written: No space left on device\n"


def test_a_reader_that_has_gone_is_none() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = start("info", MODEL, "--tensors", stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [GENERATE, [*GENERATE, "--json"], ["--version"]])
def test_a_closed_standard_output_is_an_error(arguments: list[str]) -> None:
    result = start(*arguments, closed=(1,))
    assert result.returncode == 1
    assert result.stderr.decode() == "tinyllm: error: standard output is closed\n"


def test_other_files_may_be_closed() -> None:
    expected = start(*GENERATE).stdout
    assert start(*GENERATE, closed=(0, 2)).stdout == expected != b""
    failed = start("generate", "/nowhere", "x", closed=(2,))
    assert (failed.returncode, failed.stdout) == (1, b"")  # the message must not go into the output instead
    assert start(*GENERATE, closed=(0, 1, 2)).returncode == 1


@pytest.mark.parametrize("arguments", [["generate", MODEL, "-"], ["chat", MODEL, "--device", "cpu"]])
def test_a_closed_standard_input_is_an_error(arguments: list[str]) -> None:
    result = start(*arguments, closed=(0,))
    assert result.returncode == 1
    assert b"standard input is closed" in result.stderr


def test_standard_input_is_text(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"abc\xff")
    with (tmp_path / "bytes").open("rb") as file:
        result = start("generate", MODEL, "-", stdin=file, encoding="utf-8")
    assert result.returncode == 1
    assert b"standard input is not UTF-8: invalid start byte at byte 3" in result.stderr


def test_the_newline_of_echo_is_not_part_of_the_prompt() -> None:
    options = ["--max-new-tokens", "4", "--device", "cpu", "--json"]
    outputs = [
        json.loads(run("generate", MODEL, "-", *options, stdin=text).stdout)["token_ids"]
        for text in ("the dog", "the dog\n", "the dog\n\n")
    ]
    assert outputs[0] == outputs[1]
    with tinyllm.load(MODEL, device="cpu") as model:  # only one: an empty line is text
        assert outputs[2] == model.generate("the dog\n", max_new_tokens=4).token_ids


INTERRUPTED_IMPORT = """
import sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
import tinyllm.__main__
sys.argv[1:] = ["devices"]
sys.exit(tinyllm.__main__.main())
"""


@pytest.mark.parametrize("module", ["numpy", "tinyllm.api", "tinyllm.commands", "tinyllm.commands.plan"])
def test_an_interrupt_while_modules_are_imported(module: str) -> None:
    program = [sys.executable, "-c", INTERRUPTED_IMPORT.replace("sys.argv[1]:", f"{module!r}:"), module]
    result = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_an_interrupt_while_a_program_waits() -> None:
    command = [sys.executable, "-m", "tinyllm", "generate", MODEL, "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_until(lambda: "pipe_read" in Path(f"/proc/{process.pid}/wchan").read_text() or reads(process.pid))
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors.strip()) == (130, b"", b"")


def reads(pid: int) -> bool:
    """Whether the process waits in a read of its standard input (system call 0 of file 0 on x86-64)."""
    try:
        return Path(f"/proc/{pid}/syscall").read_text().startswith("0 0x0 ")
    except OSError:
        pytest.skip("this system does not show what a process waits for")


def wait_until(condition: Callable[[], bool]) -> None:
    import time

    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_chat_without_an_answer_failed() -> None:
    options = ["--device", "cpu", "--max-new-tokens", "2", "--max-seq-len", "64"]
    too_long = "Hi " * 500
    failed = run("chat", MODEL, *options, stdin=f"{too_long}\n{too_long}\n", code=1)
    assert failed.stderr.count("tinyllm: error: ") == 2
    assert "max_seq_len" not in failed.stderr
    run("chat", MODEL, *options, stdin=f"{too_long}\nHi\n")  # one answer came
    run("chat", MODEL, *options, stdin="/help\n")  # nothing was asked


def test_usage_is_that_of_the_command() -> None:
    result = run("generate", MODEL, "x", "--frobnicate", code=2)
    assert result.stderr.startswith("usage: tinyllm generate ")
    assert "unrecognized arguments: --frobnicate" in result.stderr
    assert run("plan", MODEL, "x", code=2).stderr.startswith("usage: tinyllm plan ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*GENERATE, "--top-p", "2"], "--top-p must be a finite number greater than 0 and at most 1; got 2.0"),
        ([*GENERATE, "--max-new-tokens", "0"], "--max-new-tokens must be an integer from 1"),
        ([*GENERATE, "--group-size", "100"], "--group-size must be one of 0, 32, 64, 128, 256; got 100"),
        ([*GENERATE, "--max-seq-len", "0"], "--max-seq-len must be an integer from 1"),
        ([*GENERATE, "--temperature", "1e39"], "--temperature must be a number that float32 holds"),
        (["plan", MODEL, "--batch", "0"], "--batch must be an integer from 1"),
        (["plan", MODEL, "--context", "0"], "--context must be an integer from 1"),
        (["info", MODEL, "--dtype", "int3"], "--dtype must be one of"),
    ],
)
def test_messages_have_the_words_of_the_command_line(arguments: list[str], message: str) -> None:
    assert f"tinyllm: error: {message}" in run(*arguments, code=1).stderr


def test_a_warning_is_one_line(tmp_path: Path) -> None:
    config = config_json()
    directory = write_huggingface(tmp_path / "model", config, random_tensors(model_config(config)))
    (directory / "generation_config.json").write_text('{"num_beams": 4}')
    lines = run("info", str(directory), "--device", "cpu").stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("tinyllm: warning: ")
    assert "num_beams=4" in lines[0]


def test_keys_of_a_checkpoint_are_not_flags(tmp_path: Path) -> None:
    config = config_json()
    directory = write_huggingface(tmp_path / "model", config, random_tensors(model_config(config)))
    (directory / "generation_config.json").write_text('{"do_sample": true, "top_p": 7}')
    assert "--top-p" not in run("generate", str(directory), "x", code=1).stderr
