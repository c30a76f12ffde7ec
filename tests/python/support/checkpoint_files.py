"""Tiny checkpoints for the tests: random weights for a configuration, written as Hugging Face directory or GGUF file.

Needs neither torch nor transformers.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyllm.checkpoints import expected_tensors
from tinyllm.config import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# The smallest config.json; 2 layers, grouped-query attention, tied embeddings.
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}


def config_json(base: str = "llama", **changes: Any) -> dict[str, Any]:
    """LLAMA for another model type, with `changes`; a change to `...` removes the key."""
    class_name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[base] + "ForCausalLM"
    values = {**LLAMA, "architectures": [class_name], "model_type": base, **changes}
    return {key: value for key, value in values.items() if value is not ...}


def model_config(values: Mapping[str, Any], **changes: Any) -> ModelConfig:
    """A `ModelConfig` with the sizes of a config.json, made without the code under test."""
    return ModelConfig(
        vocab_size=values["vocab_size"],
        hidden_dim=values["hidden_size"],
        intermediate_dim=values["intermediate_size"],
        num_layers=values["num_hidden_layers"],
        num_heads=values["num_attention_heads"],
        num_kv_heads=values["num_key_value_heads"],
        tie_word_embeddings=values["tie_word_embeddings"],
        **changes,
    )


def random_tensors(config: ModelConfig, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Every tensor of the configuration under its canonical name."""
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal(shape).astype(dtype) for name, shape in expected_tensors(config).items()}


def huggingface_name(name: str) -> str:
    return name if name.startswith("lm_head") else f"model.{name}"


def write_huggingface(
    directory: Path, values: Mapping[str, Any], tensors: Mapping[str, np.ndarray], shards: int = 1
) -> Path:
    """Write `config.json` and the tensors (canonical names) in one safetensors file or several."""
    from safetensors.numpy import save_file

    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(values))
    stored = {huggingface_name(name): array for name, array in tensors.items()}
    if shards == 1:
        save_file(stored, directory / "model.safetensors")
        return directory
    weight_map = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(stored)}
    for file in sorted(set(weight_map.values())):
        save_file({name: stored[name] for name in stored if weight_map[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def write_gguf(
    path: Path,
    config: ModelConfig,
    tensors: Mapping[str, np.ndarray],
    stored_type: Any = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a GGUF file as llama.cpp's converter does, from tensors (canonical names and order).

    Matrices are quantised to `stored_type` (kept as they are if None); those that are bytes already are stored as
    blocks of that type. `metadata` adds keys or replaces them; `...` leaves one out.
    """
    import gguf

    architecture = "llama" if config.architecture == "mistral" else config.architecture
    keys = {
        "general.type": "model",
        "block_count": config.num_layers,
        "context_length": config.max_seq_len,
        "embedding_length": config.hidden_dim,
        "feed_forward_length": config.intermediate_dim,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_theta,
        "rope.dimension_count": config.rotary_dim,
        "vocab_size": config.vocab_size,
        **(metadata or {}),
    }
    writer = gguf.GGUFWriter(path, keys.pop("general.architecture", architecture))
    for key, value in keys.items():
        if value is not ...:
            is_global = key.startswith(("general.", "tokenizer.", "split.", "quantize."))
            _add_value(writer, key if is_global else f"{architecture}.{key}", value)
    names = gguf.get_tensor_name_map(_architecture_enum(architecture), config.num_layers)
    heads = {"q": config.num_heads, "k": config.num_kv_heads} if architecture == "llama" else {}
    for name, array in tensors.items():
        stored_name = names.get_name(huggingface_name(name), try_suffixes=(".weight", ".bias")) or name
        stored = array
        for projection, count in heads.items():
            if f".{projection}_proj." in name:
                stored = permute_rows(array, count)
        if stored_type is None or array.ndim == 1:
            writer.add_tensor(stored_name, stored)
        else:
            blocks = stored if stored.dtype == np.uint8 else gguf.quants.quantize(stored, stored_type)
            writer.add_tensor(stored_name, blocks, raw_dtype=stored_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def permute_rows(rows: np.ndarray, heads: int) -> np.ndarray:
    """The order in which llama.cpp's converter stores query and key rows: (half, pair) becomes (pair, half)."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _architecture_enum(architecture: str) -> Any:
    import gguf

    return next(member for member, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)


def _add_value(writer: Any, key: str, value: Any) -> None:
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(key, value)
