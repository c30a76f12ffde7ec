"""The command line, run as a user runs it: a process with pipes, or a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import tinyllm
from cli_process import run_cli as run
from reference import DATA
from tinyllm.memory.report import format_bytes

MODEL = str(DATA / "smollm2")
CHAT_MODEL = str(DATA / "llama3")  # has a chat template
LIMIT = ["--max-new-tokens", "8", "--device", "cpu"]


def expected_text(prompt: str, **settings: object) -> str:
    with tinyllm.load(MODEL, device="cpu") as model:
        return model.generate(prompt, max_new_tokens=8, **settings).text


def test_the_package_runs_as_a_module() -> None:
    result = subprocess.run([sys.executable, "-m", "tinyllm", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == f"tinyllm {tinyllm.__version__}"


def test_version_and_help() -> None:
    assert run("--version").stdout.strip() == f"tinyllm {tinyllm.__version__}"
    text = run("--help").stdout
    for command in ("demo", "generate", "chat", "info", "devices"):
        assert command in text
        assert run(command, "--help").stdout.startswith(f"usage: tinyllm {command}")


def test_generate_streams_the_text_and_is_silent_in_a_pipe() -> None:
    result = run("generate", MODEL, "the cat", *LIMIT)
    assert result.stdout == expected_text("the cat") + "\n"
    assert result.stderr == ""


def test_generate_reads_standard_input() -> None:
    assert run("generate", MODEL, "-", *LIMIT, stdin="the dog").stdout == expected_text("the dog") + "\n"


def test_generate_prints_json() -> None:
    options = ["--json", "--logprobs", "--temperature", "1", "--seed", "3", "--top-k", "20", "--top-p", "0.9"]
    options += ["--min-p", "0.01", "--repetition-penalty", "1.1", "--stop", "zzz", "--ignore-eos"]
    report = json.loads(run("generate", MODEL, "the cat", *LIMIT, *options).stdout)
    settings = {"temperature": 1.0, "seed": 3, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1}
    assert report["text"] == expected_text("the cat", **settings, stop=["zzz"], ignore_eos=True)
    assert len(report["token_ids"]) == len(report["logprobs"]) == report["stats"]["generated_tokens"] == 8
    assert report["finish_reason"] == "length"


def test_loading_shows_progress_on_a_terminal() -> None:
    controller, terminal = pty.openpty()
    # A new terminal has no columns, and no bar fits into them.
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-m", "tinyllm", "generate", MODEL, "the cat", *LIMIT]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=terminal, check=True)
    os.close(terminal)
    shown = b""
    while True:
        try:
            block = os.read(controller, 4096)
        except OSError:  # Linux's way to say that the other side is closed
            break
        if not block:
            break
        shown += block
    os.close(controller)
    assert b"loading" in shown


def test_info_describes_a_model_without_loading_it() -> None:
    text = run("info", MODEL, "--device", "cpu", "--tensors").stdout
    assert "parameters in" in text
    assert "layers.0.self_attn.q_proj.weight" in text
    report = json.loads(run("info", MODEL, "--device", "cpu", "--json", "--max-seq-len", "128").stdout)
    assert report["config"]["architecture"] == "llama"
    with tinyllm.load(MODEL, device="cpu", kv_cache=tinyllm.KVCacheConfig(max_seq_len=128)) as model:
        assert report["plan"] == model.memory().planned


def test_chat_keeps_a_history_and_knows_its_commands() -> None:
    lines = ["My name is Ada.", "the dog", "/nonsense", "/help", "/reset", "the dog", "/exit", "never read"]
    options = [*LIMIT, "--temperature", "0", "--stats", "--system", "Be brief."]
    result = run("chat", CHAT_MODEL, *options, stdin="\n".join(lines))
    answers = []
    with tinyllm.load(CHAT_MODEL, device="cpu") as model:
        for conversation in (["My name is Ada.", "the dog"], ["the dog"]):
            messages = [{"role": "system", "content": "Be brief."}]
            for text in conversation:
                messages.append({"role": "user", "content": text})
                answers.append(model.chat(messages, max_new_tokens=8, temperature=0).text)
                messages.append({"role": "assistant", "content": answers[-1]})
    assert answers[1] != answers[2], "this model answers the same with and without the history"
    # By lines: a pipe of text has one kind of line end, and answers of random weights may hold any.
    assert result.stdout.splitlines() == "".join(f"{answer}\n" for answer in answers).splitlines()
    assert "unknown command /nonsense" in result.stderr
    assert result.stderr.count("/reset forgets the conversation") == 2  # in the complaint, and where /help asks for it
    assert result.stderr.count("tok/s") == 2 * len(answers)  # a line with two rates after each


def test_devices_are_listed() -> None:
    lines = run("devices").stdout.splitlines()
    for line, device in zip(lines, tinyllm.devices(), strict=True):
        state = "usable" if device.usable else "NOT usable"
        assert line.startswith(f"{device.device:<8} {device.name}: {state}, ")
        assert line.endswith(f" free of {format_bytes(device.total)}; {device.description}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "/nowhere", "x"], "/nowhere"),
        (["generate", MODEL, "x", "--temperature", "-1"], "temperature"),
        (["generate", MODEL, "x", "--logprobs"], "--json"),
        (["generate", MODEL, "x", "--device", "cuda:77"], "cuda:77"),
        (["generate", MODEL, "", "--device", "cpu"], "at least one"),
        (["generate", MODEL, "x" * 4000, "--device", "cpu", "--max-seq-len", "64"], "64"),
        (["info", str(Path(__file__))], ".gguf"),
    ],
)
def test_mistakes_are_one_line_on_standard_error(arguments: list[str], words: str) -> None:
    result = run(*arguments, code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("tinyllm: error: ")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_wrong_usage_is_exit_code_2() -> None:
    run(code=2)
    run("generate", MODEL, "x", "--group-size", "many", code=2)
    run("frobnicate", code=2)
