"""`plan` and `info` of a model whose weights are not there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import tinyllm
from checkpoint_files import config_json, model_config, random_tensors, write_huggingface
from cli_process import run_cli as run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("base", ["llama", "qwen2", "qwen3"])
def test_the_plan_of_config_json_is_that_of_the_checkpoint(tmp_path: Path, base: str) -> None:
    config = config_json(base, head_dim=8) if base == "qwen3" else config_json(base)
    biases = {"qwen2": {"qkv_bias": True}, "qwen3": {"qk_norm": True}}.get(base, {})
    whole = write_huggingface(tmp_path / "whole", config, random_tensors(model_config(config, **biases)))
    only = tmp_path / "only"
    only.mkdir()
    (only / "config.json").write_text(json.dumps(config))
    for device in ("cpu", "cuda"):
        plans = [tinyllm.plan(path, device) for path in (whole, only, only / "config.json")]
        assert plans[0].to_dict() == plans[1].to_dict() == plans[2].to_dict()


def test_the_commands_need_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_json()))
    text = run("info", str(tmp_path), "--device", "cpu").stdout
    assert "there is config.json only" in text
    report = json.loads(run("info", str(tmp_path / "config.json"), "--device", "cpu", "--json").stdout)
    assert report["has_weights"] is False
    assert len(report["tensors"]) == 20
    assert "needed" in run("plan", str(tmp_path)).stdout
    assert "found neither" in run("generate", str(tmp_path), "x", code=1).stderr


def test_an_incomplete_checkpoint_is_still_an_error(tmp_path: Path) -> None:
    config = config_json()
    directory = write_huggingface(tmp_path / "model", config, random_tensors(model_config(config)), shards=2)
    next(directory.glob("model-00001*")).unlink()
    with pytest.raises(tinyllm.CheckpointError, match="this shard is missing"):
        tinyllm.plan(directory)
