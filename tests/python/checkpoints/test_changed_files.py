"""Files that are replaced, written to, moved or removed between opening a checkpoint and the end of its use."""

from __future__ import annotations

import os
import shutil
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import tinyllm
from checkpoint_files import LLAMA, config_json, model_config, random_tensors, write_gguf, write_huggingface
from reference import DATA
from tinyllm import CheckpointError
from tinyllm.checkpoints import open_checkpoint
from tokenizer_files import byte_level_backend, byte_level_fields

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VOCABULARY = 512  # room for the small tokenizer's tokens
CONFIG = model_config({**LLAMA, "vocab_size": VOCABULARY}, max_seq_len=256)


def huggingface(path: Path, tokenizer: bool = True, shards: int = 1) -> Path:
    values = config_json(vocab_size=VOCABULARY)
    directory = write_huggingface(path / "model", values, random_tensors(CONFIG), shards)
    if tokenizer:
        byte_level_backend().save(str(directory / "tokenizer.json"))
    return directory


def gguf(path: Path, tokenizer: bool = True) -> Path:
    fields = {f"tokenizer.{key}": value for key, value in byte_level_fields().items()} if tokenizer else {}
    config = CONFIG
    if tokenizer:
        tokens = fields["tokenizer.ggml.tokens"]
        fields["tokenizer.ggml.tokens"] = [*tokens, *(f"[{i}]" for i in range(len(tokens), VOCABULARY))]
        types = fields["tokenizer.ggml.token_type"]
        fields["tokenizer.ggml.token_type"] = types + [1] * (VOCABULARY - len(types))
    return write_gguf(path / "model.gguf", config, random_tensors(config), metadata=fields)


WRITERS = [huggingface, gguf]


def weights(path: Path) -> Path:
    return path if path.is_file() else next(path.glob("*.safetensors"))


def replace_file(path: Path) -> None:
    shutil.copy(path, path.with_name("other"))
    path.with_name("other").replace(path)


def write_to_file(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(bytes(4))


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(4))


@pytest.mark.parametrize("change", [replace_file, write_to_file, grow])
@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_changes_gives_no_mixed_model(
    tmp_path: Path, write: Callable[..., Path], change: Callable[[Path], None]
) -> None:
    path = write(tmp_path)
    checkpoint = open_checkpoint(path)
    first, *others = checkpoint.tensors()
    first.load()
    checkpoint.require_unchanged()
    os.utime(weights(path), ns=(0, 10**18))  # so that the next change has another time, however fast this machine is
    checkpoint = open_checkpoint(path)
    first, *others = checkpoint.tensors()
    first.load()
    change(weights(path))
    with pytest.raises(CheckpointError, match=r"the file was changed while it was read: expected \d+ bytes.*load the"):
        others[-1].load()
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        checkpoint.require_unchanged()


@pytest.mark.parametrize("write", WRITERS)
def test_a_change_at_any_tensor_stops_the_load(
    tmp_path: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one after the last tensor was read, which only the check at the end sees."""
    path = write(tmp_path)
    os.utime(weights(path), ns=(0, 10**18))
    number = len(list(open_checkpoint(path).tensors()))
    real = tinyllm._native.engine.NativeEngine.load_tensor
    for at in (1, number):
        loads = []

        def load_tensor(engine: Any, name: str, array: Any, at: int = at, loads: list[str] = loads) -> None:
            loads.append(name)
            real(engine, name, array)
            if len(loads) == at:
                write_to_file(weights(path))

        monkeypatch.setattr(tinyllm._native.engine.NativeEngine, "load_tensor", load_tensor)
        with pytest.raises(CheckpointError, match="was changed while it was read"):
            tinyllm.load(path, device="cpu", quantization="none")
        os.utime(weights(path), ns=(0, 10**18))


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_is_gone_is_named(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path)
    tensors = list(open_checkpoint(path).tensors())
    weights(path).unlink()
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        tensors[0].load()


def answer(model: tinyllm.Model) -> str:
    return model.generate([1, 2, 3], max_new_tokens=8, ignore_eos=True, temperature=0).text


@pytest.mark.parametrize("write", WRITERS)
def test_the_tokenizer_survives_its_files(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path)
    with tinyllm.load(path, device="cpu") as model:
        expected = answer(model)
        assert expected != ""
    with tinyllm.load(path, device="cpu") as model:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert answer(model) == expected
        assert model.tokenizer.decode(model.tokenizer.encode("abc")) == "abc"


@pytest.mark.parametrize("write", WRITERS)
def test_a_relative_path_survives_a_change_of_directory(
    tmp_path: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    monkeypatch.chdir(tmp_path)
    checkpoint = open_checkpoint(path.name)
    with tinyllm.load(path.name, device="cpu") as model:
        monkeypatch.chdir("/")
        assert answer(model) != ""
    assert checkpoint.tokenizer.encode("abc") != []
    assert next(checkpoint.tensors()).load().size > 0


@pytest.mark.parametrize("write", WRITERS)
def test_without_any_tokenizer_token_ids_are_enough(tmp_path: Path, write: Callable[..., Path]) -> None:
    with tinyllm.load(write(tmp_path, tokenizer=False), device="cpu") as model:
        result = model.generate([1, 2, 3], max_new_tokens=4, ignore_eos=True)
        assert (result.text, len(result.token_ids)) == ("", 4)
        with pytest.raises(CheckpointError, match=r"tokenizer"):
            model.generate([1, 2, 3], stop="x")
        with pytest.raises(CheckpointError, match=r"tokenizer"):
            model.generate("text")


def broken_huggingface(path: Path) -> Path:
    directory = huggingface(path)
    (directory / "tokenizer.json").write_text("{")
    return directory


def broken_gguf(path: Path) -> Path:
    return write_gguf(
        path / "model.gguf",
        CONFIG,
        random_tensors(CONFIG),
        metadata={"tokenizer.ggml.tokens": [f"t{i}" for i in range(VOCABULARY)], "tokenizer.ggml.model": "unknown"},
    )


@pytest.mark.parametrize("write", [broken_huggingface, broken_gguf])
def test_an_unusable_tokenizer_is_an_error_and_not_an_empty_text(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path)
    with tinyllm.load(path, device="cpu") as model:
        for prompt in ([1, 2, 3], "text"):
            with pytest.raises(CheckpointError, match=path.name):
                model.generate(prompt, max_new_tokens=2)
        assert model.logits([1, 2, 3]).shape == (3, VOCABULARY)


@pytest.mark.parametrize("write", WRITERS)
def test_the_first_text_may_come_from_many_threads(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path)
    for _ in range(20):
        checkpoint = open_checkpoint(path)
        start = threading.Barrier(8)
        found: list[Any] = []

        def first(checkpoint: Any = checkpoint, start: Any = start, found: list[Any] = found) -> None:
            start.wait()
            try:
                found.append(checkpoint.tokenizer)
            except Exception as error:
                found.append(error)

        threads = [threading.Thread(target=first) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [checkpoint.tokenizer] * 8


def test_a_context_beyond_the_models_own_warns() -> None:
    path = DATA / "llama2"
    own = open_checkpoint(path).config.max_seq_len
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for context in (own, 2 * own, 2 * own):
            tinyllm.load(path, device="cpu", kv_cache=tinyllm.KVCacheConfig(1, context)).close()
    (warning,) = {(str(one.message), one.filename) for one in caught if "a context of" in str(one.message)}
    assert f"a context of {2 * own} tokens is beyond the {own}" in warning[0]
    assert f'"factor": 2, "original_max_position_embeddings": {own}' in warning[0]
    assert warning[1] == __file__


@pytest.mark.parametrize(
    ("fields", "own"),
    [
        ({}, 100),
        ({"rope_type": "linear", "rope_factor": 4.0}, 400),
        ({"rope_type": "dynamic", "rope_factor": 2.0, "rope_original_max_seq_len": 100}, 200),
        ({"rope_type": "yarn", "rope_factor": 4.0, "rope_original_max_seq_len": 50}, 200),
        ({"rope_type": "yarn", "rope_factor": 4.0, "rope_original_max_seq_len": 10}, 100),
        ({"rope_type": "yarn", "rope_factor": 1e30, "rope_original_max_seq_len": 10}, 2**31 - 1),
    ],
)
def test_the_context_a_model_was_made_for(fields: dict[str, Any], own: int) -> None:
    from tinyllm.checkpoints.rope import trained_context

    assert trained_context(model_config(LLAMA, max_seq_len=100, **fields)) == own
