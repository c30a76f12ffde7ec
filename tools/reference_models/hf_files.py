"""Hugging Face checkpoint directories, exactly as save_pretrained writes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from .oracle import build_model
from .tokenizer import save_tokenizer
from .weights import random_state

if TYPE_CHECKING:
    from pathlib import Path

    from .cases import Case


def _use_old_keys(config_file: Path) -> None:
    """Rewrite config.json with the keys of transformers 4: rope_theta, rope_scaling and torch_dtype, no usual head_dim.

    Both spellings of the scaling's name were in use, "type" first and "rope_type" later; "llama3" only ever had the
    second one.
    """
    config = json.loads(config_file.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope_type = rope.pop("rope_type")
    name_key = "rope_type" if rope_type == "llama3" else "type"
    config["rope_scaling"] = None if rope_type == "default" else {name_key: rope_type, **rope}
    if config["head_dim"] == config["hidden_size"] // config["num_attention_heads"]:
        del config["head_dim"]
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.3"
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_checkpoint(case: Case, directory: Path) -> None:
    """Write the model of `case` with random weights, and its tokenizer where it has one, into `directory`."""
    model = build_model(case.config)
    model.load_state_dict(random_state(model, case.name), strict=False)
    model.to(getattr(torch, case.dtype))
    if case.generation:
        model.generation_config = GenerationConfig(bos_token_id=272, **case.generation)
    total_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    # A shard may be a little larger than an equal part, so that rounding up to whole tensors adds no shard.
    shard_bytes = total_bytes if case.num_shards == 1 else int(total_bytes / case.num_shards * 1.1)
    model.save_pretrained(directory, max_shard_size=shard_bytes)
    if case.old_config_keys:
        _use_old_keys(directory / "config.json")
    if case.tokenizer:
        save_tokenizer(str(directory), case.tokenizer)


def read_checkpoint(directory: Path) -> PreTrainedModel:
    """The stored weights upcast to float32, in transformers with eager attention."""
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()
