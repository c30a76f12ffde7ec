"""GGUF files as llama.cpp's converter (convert_hf_to_gguf.py) writes them, and their weights read back."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch

from .oracle import build_model
from .tokenizer import BOS_TOKEN, CHAT_TEMPLATE, EOS_TOKEN, MERGES, SPECIAL_TOKENS, TOKENS
from .weights import random_state

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from .cases import Case

FILE_NAME = "model.gguf"
_SCALING_TYPES = {"linear": gguf.RopeScalingType.LINEAR, "yarn": gguf.RopeScalingType.YARN}


def _interleave(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Reorder a query or key projection [num_heads * head_dim, ...] from rotate-half to interleaved RoPE.

    llama.cpp rotates the pairs (2i, 2i + 1) of llama models, transformers the pairs (i, i + head_dim / 2); the
    converter therefore permutes the rows of each head (LlamaModel.permute in convert_hf_to_gguf.py).
    """
    halves = rows.reshape(num_heads, 2, rows.shape[0] // num_heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _deinterleave(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Undo `_interleave`."""
    pairs = rows.reshape(num_heads, rows.shape[0] // num_heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def _permuted_heads(config: dict[str, Any], key: str) -> int:
    """Number of heads of a tensor whose rows GGUF permutes, 0 for every other tensor."""
    if config["model_type"] != "llama":
        return 0
    heads: dict[str, int] = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    return heads.get(key.split(".")[-2], 0)


def _llama3_divisors(config: dict[str, Any], head_dim: int) -> np.ndarray:
    """float32 [head_dim / 2]: what llama.cpp divides each RoPE frequency by (generate_extra_tensors there)."""
    rope = config["rope_parameters"]
    context, low, high = (
        rope["original_max_position_embeddings"],
        rope["low_freq_factor"],
        rope["high_freq_factor"],
    )
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / head_dim)
        smooth = min(max((context / wavelength - low) / (high - low), 0.0), 1.0)
        divisors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(divisors, np.float32)


def _add_metadata(writer: gguf.GGUFWriter, case: Case, head_dim: int) -> None:
    config, rope = case.config, case.config["rope_parameters"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    if config["model_type"] == "llama":
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(head_dim)
    if rope["rope_type"] in _SCALING_TYPES:
        writer.add_rope_scaling_type(_SCALING_TYPES[rope["rope_type"]])
        writer.add_rope_scaling_factor(rope["factor"])
        if "original_max_position_embeddings" in rope:
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _add_tokenizer(writer: gguf.GGUFWriter, case: Case) -> None:
    types = [gguf.TokenType.NORMAL] * (len(TOKENS) - len(SPECIAL_TOKENS)) + [gguf.TokenType.CONTROL] * len(
        SPECIAL_TOKENS
    )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(case.gguf_pre_tokenizer)
    writer.add_token_list(TOKENS)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(TOKENS.index(BOS_TOKEN))
    writer.add_eos_token_id(TOKENS.index(EOS_TOKEN))
    writer.add_add_bos_token(case.config["model_type"] == "llama")
    writer.add_chat_template(CHAT_TEMPLATE)


def _stored_name(names: gguf.TensorNameMap, key: str) -> str:
    name = names.get_name(key, try_suffixes=(".weight", ".bias"))
    if name is None:
        raise KeyError(f"the gguf package has no name for {key!r}")
    return name


def write_checkpoint(case: Case, directory: Path) -> None:
    """Write `directory`/model.gguf with random weights; matrices take the types of `case.gguf_types` in turn."""
    model = build_model(case.config)
    head_dim = (
        model.config.head_dim
        if "head_dim" in case.config
        else (case.config["hidden_size"] // case.config["num_attention_heads"])
    )
    architecture = gguf.MODEL_ARCH[case.config["model_type"].upper()]
    names = gguf.get_tensor_name_map(architecture, case.config["num_hidden_layers"])
    types = itertools.cycle(gguf.GGMLQuantizationType[name] for name in case.gguf_types)
    directory.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(directory / FILE_NAME, gguf.MODEL_ARCH_NAMES[architecture])
    _add_metadata(writer, case, head_dim)
    _add_tokenizer(writer, case)
    if case.config["rope_parameters"]["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_divisors(case.config, head_dim))
    for key, tensor in random_state(model, case.name).items():
        values, heads = tensor.numpy(), _permuted_heads(case.config, key)
        if heads:
            values = _interleave(values, heads)
        name = _stored_name(names, key)
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            kind = next(types)
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_checkpoint(case: Case, directory: Path) -> PreTrainedModel:
    """The file's weights dequantised to float32 by the gguf package, in transformers with eager attention."""
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[case.config["model_type"].upper()], case.config["num_hidden_layers"]
    )
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(directory / FILE_NAME).tensors}
    state = {}
    for key in random_state(build_model(case.config), case.name):
        tensor = stored[_stored_name(names, key)]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        heads = _permuted_heads(case.config, key)
        state[key] = torch.from_numpy(_deinterleave(values, heads) if heads else values)
    return build_model(case.config, state)
