"""docs/config-keys.md is what the code does, and has every key that transformers' classes have."""

from __future__ import annotations

import dataclasses
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from checkpoint_files import config_json
from tinyllm.checkpoints.generation import huggingface_generation_defaults
from tinyllm.checkpoints.huggingface.config import read_model_config
from tinyllm.errors import CheckpointError

PAGE = Path(__file__).parents[3] / "docs" / "config-keys.md"
VALUES: tuple[Any, ...] = (True, 7, 0.25, "text", ["text"], {"text": 7})  # none of them is neutral


def _rows() -> list[tuple[str, str, str]]:
    """(file, what is done, key) of every key on the page."""
    rows, section = [], ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ").split(",")[0]
        elif line.startswith("| `"):
            keys, done, _ = (cell.strip() for cell in line.strip("|").split("|"))
            rows += [(section, done, key) for key in re.findall(r"`([^`]+)`", keys)]
    return rows


ROWS = _rows()


def keys(section: str, *done: str) -> list[str]:
    return [key for file, what, key in ROWS if file == section and (what in done or not done)]


def read_config(values: dict[str, Any]) -> None:
    read_model_config(values, "config.json", lambda: "float16")


def test_every_key_is_there_once() -> None:
    assert len(ROWS) > 150
    assert len(set(ROWS)) == len(ROWS)
    assert {done for _, done, _ in ROWS} == {"honoured", "harmless", "refused", "warned of"}


@pytest.mark.parametrize("key", keys("config.json", "harmless"))
def test_harmless_keys_of_the_configuration(key: str) -> None:
    for value in VALUES:
        read_config(config_json(**{key: value}))


@pytest.mark.parametrize("key", keys("config.json", "refused"))
def test_refused_keys_of_the_configuration(key: str) -> None:
    for value in VALUES:
        with pytest.raises(CheckpointError, match=f"unsupported '{key}'"):
            read_config(config_json(**{key: value}))


@pytest.mark.parametrize("key", keys("rope_parameters", "harmless", "refused"))
def test_keys_of_rope(key: str) -> None:
    for value in VALUES:
        rope = {"rope_type": "default", key: value}
        if key in keys("rope_parameters", "harmless"):
            read_config(config_json(rope_parameters=rope))
            continue
        with pytest.raises(CheckpointError, match=key):
            read_config(config_json(rope_parameters=rope))


def test_honoured_keys_are_checked() -> None:
    """A value that makes no sense is not passed over."""
    for key in keys("config.json", "honoured"):
        if key == "eos_token_id":  # read by the checkpoint, not by read_model_config
            continue
        with pytest.raises(CheckpointError):
            read_config(config_json("qwen2" if "window" in key else "llama", **{key: {"text": 7}}))


def warned(values: dict[str, Any]) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        huggingface_generation_defaults(values, "generation_config.json")
    return bool(caught)


@pytest.mark.parametrize("key", keys("generation_config.json", "harmless", "warned of"))
def test_keys_of_generation(key: str) -> None:
    for value in VALUES[1:]:  # true is 1, which is neutral for some
        assert warned({key: value}) == (key in keys("generation_config.json", "warned of"))
    assert not warned({key: None})


def test_generation_defaults_of_transformers_do_not_warn() -> None:
    neutral = {"num_beams": 1, "num_beam_groups": 1, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
    assert not warned({**neutral, "no_repeat_ngram_size": 0, "min_length": 0, "guidance_scale": 1.0})


def test_the_page_has_every_key_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    names = ("LlamaConfig", "MistralConfig", "Qwen2Config", "Qwen3Config")
    fields = {field.name for name in names for field in dataclasses.fields(getattr(transformers, name))}
    assert fields <= set(keys("config.json"))
    assert set(transformers.GenerationConfig().to_dict()) <= set(keys("generation_config.json"))
