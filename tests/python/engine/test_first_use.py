"""What a user meets first: reprs of one line, results for JSON, streams in `with`, the bar, the automatic cache."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import tinyllm
from reference import DATA
from tinyllm import KVCacheConfig, ModelConfig
from tinyllm.memory.html import html_table
from tinyllm.memory.planning import auto_kv_cache
from tinyllm.progress import is_watched

ROOT = Path(__file__).resolve().parents[3]
MODEL = DATA / "smollm2"
GB = 1 << 30


@pytest.fixture(scope="module")
def model() -> Any:
    with tinyllm.load(MODEL, "cpu") as loaded:
        yield loaded


def test_every_repr_is_one_short_line(model: tinyllm.Model) -> None:
    result = model.generate("the cat", max_new_tokens=2)
    with model.stream("the cat", max_new_tokens=2) as stream:
        shown = [repr(stream), *map(repr, stream), repr(stream)]
    values = (model, model.memory(), tinyllm.plan(MODEL, "cpu"), model.tokenizer, result, result.stats)
    for text in (*shown, *map(repr, values)):
        assert "\n" not in text
        assert len(text) < 400
    assert shown[0] == "<tinyllm.TextStream, running>"
    assert shown[-1] == "<tinyllm.TextStream, ended>"
    assert repr(tinyllm.plan(MODEL, "cpu")).startswith("<tinyllm.MemoryPlan of llama, w8a16, 1 x 256 tokens on cpu: ")
    assert repr(result).startswith(f"<tinyllm.GenerationResult {result.text!r}: 2 tokens, length, ")


def test_tables_are_for_print_and_notebooks(model: tinyllm.Model) -> None:
    planned = tinyllm.plan(MODEL, "cpu")
    assert planned.to_dict()["needed"] == planned.needed == planned.total + sum(planned.estimates.values())
    assert f"{planned.needed}" in next(line for line in str(planned).splitlines() if line.startswith("needed "))
    for value in (planned, model.memory()):
        html = value._repr_html_()
        assert html.startswith("<table>")
        assert html.count("<tr>") >= 6
        for component in planned.components:
            assert component in html
            assert component in str(value)
    assert html_table("a<b", ("x", "y"), [("&", "1")]).count("&lt;") == 1


def test_results_are_values_for_json(model: tinyllm.Model) -> None:
    result = model.generate("the cat", max_new_tokens=2, logprobs=True)
    report = json.loads(json.dumps(result.to_dict()))
    assert report["token_ids"] == result.token_ids
    assert report["stats"] == result.stats.to_dict()
    pieces = [piece.to_dict() for piece in model.stream("the cat", max_new_tokens=2)]
    assert "".join(piece["text"] for piece in pieces) == result.text
    assert pieces[-1]["stats"]["generated_tokens"] == 2
    assert json.loads(json.dumps(model.memory().to_dict()))["planned"] == model.memory().planned


def test_leaving_a_stream_cancels_it(model: tinyllm.Model) -> None:
    with model.stream("the cat", max_new_tokens=100) as stream:
        next(stream)
    assert list(stream) == []
    with pytest.raises(RuntimeError, match="stop here"), model.stream("the cat") as stream:
        raise RuntimeError("stop here")
    assert list(stream) == []


def test_a_special_token_is_a_stop_string(smollm2_gguf: Path) -> None:
    with tinyllm.load(smollm2_gguf, "cpu") as model:
        messages = [{"role": "user", "content": "Say hello."}]
        ended = model.chat(messages, max_new_tokens=60)
        assert ended.finish_reason == "stop"
        stopped = model.chat(messages, max_new_tokens=60, ignore_eos=True, stop="<|im_end|>")
        assert (stopped.finish_reason, stopped.text) == ("stop", ended.text)
        assert stopped.token_ids == ended.token_ids


class RecordedBar:
    """In place of tqdm's."""

    def __init__(self, total: int, show: bool) -> None:
        self.total, self.show, self.n = total, show, 0

    def __enter__(self) -> RecordedBar:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, count: int) -> None:
        self.n += count

    def refresh(self) -> None:
        assert self.n == self.total


def test_the_bar_counts_what_is_in_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = []
    monkeypatch.setattr("tinyllm.loading.load_bar", lambda *args: bars.append(RecordedBar(*args)) or bars[-1])
    tinyllm.load(MODEL, "cpu").close()
    (bar,) = bars
    assert not bar.show
    with tinyllm.checkpoints.open_checkpoint(MODEL) as checkpoint:
        assert bar.n == bar.total == sum(tensor.stored_bytes for tensor in checkpoint.tensors())


def test_the_bar_ends_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    tinyllm.load(MODEL, "cpu", progress=True).close()
    shown = capsys.readouterr().err.split("\r")
    assert any("loading: 100%" in line for line in shown)


def test_a_bar_is_shown_where_somebody_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def shell(name: str) -> Any:
        return types.SimpleNamespace(get_ipython=type(name, (), {}))

    monkeypatch.setattr(sys, "stderr", None)  # of a program without a console
    assert not is_watched()
    for name, watched in (("ZMQInteractiveShell", True), ("TerminalInteractiveShell", False)):
        monkeypatch.setitem(sys.modules, "IPython", shell(name))
        assert is_watched() is watched


def test_an_automatic_cache_leaves_room_on_a_cpu() -> None:
    # A Llama of 1B parameters on a host with 22 GB free.
    config = ModelConfig(
        vocab_size=128256,
        hidden_dim=2048,
        intermediate_dim=8192,
        num_layers=16,
        num_heads=32,
        num_kv_heads=8,
        max_seq_len=8192,
        tie_word_embeddings=True,
    )
    full = auto_kv_cache(config, "cpu", 22 * GB)
    gentle = auto_kv_cache(config, "cpu", 22 * GB, leave_room=True)
    assert full == KVCacheConfig(64, 8192)
    assert gentle == KVCacheConfig(8, 8192)
    assert tinyllm.plan(config, "cpu", kv_cache=gentle).components["kv_cache"] == 2 * GB
    # A model that nearly fills the memory takes a quarter of what is left, in whole pages.
    least = tinyllm.plan(config, "cpu", kv_cache=KVCacheConfig(1, 64)).needed
    tight = auto_kv_cache(config, "cpu", least + (64 << 20), leave_room=True)
    larger = KVCacheConfig(1, tight.max_seq_len + 64)
    needed, too_much = (tinyllm.plan(config, "cpu", kv_cache=cache).needed for cache in (tight, larger))
    assert needed <= least + (16 << 20) < too_much


def test_only_a_default_is_gentle() -> None:
    with tinyllm.load(MODEL, "cpu", kv_cache="auto") as model:
        assert model.kv_cache.max_batch_size == 8
    with tinyllm.load(MODEL, "cpu", kv_cache="auto", memory_fraction=0.9) as model:
        assert model.kv_cache.max_batch_size == 64


def test_the_distribution_has_a_name_of_its_own() -> None:
    from tinyllm import api

    text = (ROOT / "pyproject.toml").read_text()
    assert f'\nname = "{api.DISTRIBUTION}"' in text
    assert api.DISTRIBUTION != "tinyllm"  # another project on PyPI
    try:
        assert tinyllm.__version__ == importlib.metadata.version(api.DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        assert tinyllm.__version__ == "0+unknown"
    for file in [ROOT / "README.md", *(ROOT / "python").rglob("*.py"), *(ROOT / "docs").rglob("*.md")]:
        for words in ("pip install tinyllm", "pip install 'tinyllm", 'pip install "tinyllm'):
            assert words not in file.read_text(), file


def test_importing_the_package_is_light() -> None:
    program = (
        "import sys, tinyllm; assert 'numpy' not in sys.modules; from tinyllm import *; assert load is tinyllm.load;"
        "assert 'numpy' in sys.modules; assert set(dir(tinyllm)) >= {'load', 'plan', 'Model', '__version__'}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="module 'tinyllm' has no attribute 'laod'"):
        tinyllm.laod  # noqa: B018
