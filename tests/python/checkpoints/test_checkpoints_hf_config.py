"""`config.json` of Hugging Face checkpoints: what its keys mean, and which are refused."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from checkpoint_files import config_json
from tinyllm.checkpoints.huggingface.config import read_model_config
from tinyllm.errors import CheckpointError

if TYPE_CHECKING:
    from tinyllm.config import ModelConfig


def read(values: dict[str, Any]) -> ModelConfig:
    return read_model_config(values, "config.json", lambda: "float16")


@pytest.mark.parametrize(
    ("keys", "fields"),
    [
        ({}, {"rope_type": "default", "rope_theta": 10000.0}),
        ({"rope_theta": 5e5, "rope_scaling": None}, {"rope_type": "default", "rope_theta": 5e5}),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, {"rope_theta": 5e5}),
        ({"rope_theta": 7.0, "rope_parameters": {"rope_type": "default"}}, {"rope_theta": 7.0}),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, {"rope_type": "linear", "rope_factor": 4.0}),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, {"rope_type": "linear", "rope_factor": 2.0}),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            {"rope_type": "dynamic", "rope_factor": 2.0, "rope_original_max_seq_len": 256},
        ),
        (
            {
                "rope_theta": 5e5,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.5,
                    "high_freq_factor": 4.5,
                    "original_max_position_embeddings": 64,
                },
            },
            {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "rope_factor": 8.0,
                "rope_low_freq_factor": 1.5,
                "rope_high_freq_factor": 4.5,
                "rope_original_max_seq_len": 64,
            },
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
            {
                "rope_type": "yarn",
                "rope_factor": 4.0,
                "rope_original_max_seq_len": 64,
                "rope_attention_factor": 0.1 * np.log(4.0) + 1.0,
                "rope_beta_fast": 32.0,
                "rope_beta_slow": 1.0,
                "rope_truncate": True,
            },
        ),
        (
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 1e6,
                    "factor": 4.0,
                    "attention_factor": 1.5,
                    "beta_fast": 16.0,
                    "beta_slow": 2.0,
                    "truncate": False,
                    "finetuned": True,
                },
                "original_max_position_embeddings": 128,
            },
            {
                "rope_theta": 1e6,
                "rope_original_max_seq_len": 128,
                "rope_attention_factor": 1.5,
                "rope_beta_fast": 16.0,
                "rope_beta_slow": 2.0,
                "rope_truncate": False,
            },
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": None, "original_max_position_embeddings": 64}},
            {"rope_factor": 4.0},
        ),
        # transformers reads null, unlike an absent key, as false
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0, "truncate": None}},
            {"rope_truncate": False, "rope_original_max_seq_len": 256},
        ),
        ({"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2.0}}, {"rope_type": "linear"}),
    ],
)
def test_rope_keys(keys: dict[str, Any], fields: dict[str, Any]) -> None:
    config = read(config_json(**keys))
    assert {field: getattr(config, field) for field in fields} == fields


@pytest.mark.parametrize(
    ("base", "keys", "window"),
    [
        ("mistral", {}, (4096, 0)),  # MistralConfig's default
        ("mistral", {"sliding_window": 16}, (16, 0)),
        ("mistral", {"sliding_window": None}, (0, 0)),
        ("mistral", {"sliding_window": 16, "layer_types": ["sliding_attention"] * 2}, (16, 0)),
        ("llama", {"layer_types": ["full_attention"] * 2}, (0, 0)),
        ("qwen2", {"sliding_window": 16, "max_window_layers": 1}, (0, 0)),  # not switched on
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}, (4096, 1)),  # Qwen2Config's default
        ("qwen2", {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}, (0, 0)),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}, (16, 1)),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2}, (0, 0)),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 16}, (0, 0)),  # max_window_layers is 28
        (
            "qwen3",
            {
                "use_sliding_window": True,
                "sliding_window": 16,
                "max_window_layers": 0,
                "layer_types": ["full_attention", "sliding_attention"],
            },
            (16, 1),
        ),
    ],
)
def test_sliding_window(base: str, keys: dict[str, Any], window: tuple[int, int]) -> None:
    config = read(config_json(base, **keys))
    assert (config.sliding_window, config.sliding_window_first_layer) == window


def test_key_value_heads_default() -> None:
    assert read(config_json(num_key_value_heads=...)).num_kv_heads == 4
    assert read(config_json("mistral", num_key_value_heads=None)).num_kv_heads == 4
    assert read(config_json("mistral", num_attention_heads=16, num_key_value_heads=...)).num_kv_heads == 8


def test_architecture_by_model_type_alone() -> None:
    assert read(config_json("qwen2", architectures=...)).architecture == "qwen2"


@pytest.mark.parametrize("values", [{"dtype": "bfloat16"}, {"torch_dtype": "torch.bfloat16"}])
def test_dtype_keys(values: dict[str, Any]) -> None:
    assert read(config_json(**values)).dtype == "bfloat16"


def test_harmless_and_neutral_keys_are_accepted() -> None:
    read(
        config_json(
            # as found in SmolLM2, TinyLlama, Llama 3.2, fine-tunes of them and files of transformers 4
            **{"transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}}, "_name_or_path": "x"},
            is_llama_config=True,
            rope_interleaved=False,
            initializer_range=0.041666666666666664,
            pretraining_tp=2,
            use_cache=True,
            attention_dropout=0.1,
            pad_token_id=2,
            temperature=0.9,
            max_length=4096,
            max_sequence_length=2048,
            unsloth_version="2025.1",
            # unknown, but switched off
            quantization_config=None,
            use_mrope=False,
            attn_logit_softcapping=0.0,
            embedding_multiplier=1.0,
            residual_scale=1,
            no_rope_layers=[],
        )
    )


# What other configurations call a part that these models always have: true changes nothing, false does.
@pytest.mark.parametrize(
    "key",
    [
        *("is_causal", "causal", "use_causal_mask", "use_rope", "use_rms_norm", "do_layer_norm_before", "final_norm"),
        *("use_swiglu", "scale_attn_weights", "no_bias"),
    ],
)
def test_keys_that_are_neutral_when_true(key: str) -> None:
    read(config_json(**{key: True}))
    read(config_json(**{key: None}))
    for value in (False, 0, 1, "no"):
        with pytest.raises(CheckpointError, match=f"unsupported '{key}' = {value!r}"):
            read(config_json(**{key: value}))


@pytest.mark.parametrize(
    ("key", "neutral", "others"),
    [
        ("attention_multiplier", None, [1, 1.0, 0, 0.5, False]),  # replaces 1 / sqrt(head_dim)
        ("softmax_scale", None, [1.0, 0]),
        ("query_pre_attn_scalar", None, [0, 1, 256]),
        ("clip_qkv", None, [0, 8.0]),
        ("scale_depth", None, [1, 1.4]),
        ("rotary_pct", 1.0, [0, 0.25]),
        ("rope_ratio", 1, [0, 8]),
        ("residual_multiplier", 1.0, [0, 0.22]),
        ("is_decoder", True, []),
        ("is_decoder", False, []),
        ("tie_last_hidden_states", True, []),
        ("use_bidirectional_attention", False, [True]),
        ("use_parallel_residual", False, [True]),
        ("per_layer_config", {}, [{"0": {"sliding_window": 4}}]),
    ],
)
def test_values_that_change_nothing_depend_on_the_key(key: str, neutral: Any, others: list[Any]) -> None:
    read(config_json(**{key: neutral}))
    for value in others:
        with pytest.raises(CheckpointError, match=f"unsupported '{key}'"):
            read(config_json(**{key: value}))


@pytest.mark.parametrize(
    ("base", "keys", "words"),
    [
        ("llama", {"architectures": ["GemmaForCausalLM"], "model_type": "gemma"}, ["Gemma", "Qwen3ForCausalLM"]),
        ("llama", {"model_type": "mistral"}, ["LlamaForCausalLM", "'mistral'"]),
        ("llama", {"architectures": ["LlamaModel"]}, ["LlamaModel", "LlamaForCausalLM"]),
        ("llama", {"architectures": ..., "model_type": ...}, ["None", "LlamaForCausalLM"]),
        ("llama", {"hidden_act": "gelu"}, ["hidden_act", "silu", "gelu"]),
        ("llama", {"hidden_size": ...}, ["hidden_size", "missing"]),
        ("llama", {"hidden_size": "32"}, ["hidden_size", "integer", "'32'"]),
        ("llama", {"num_hidden_layers": 0}, ["num_hidden_layers", "0"]),
        ("llama", {"num_attention_heads": True}, ["num_attention_heads", "True"]),
        ("llama", {"num_attention_heads": 3, "num_key_value_heads": 3}, ["hidden_dim=32", "num_heads=3"]),
        ("llama", {"num_key_value_heads": 3}, ["num_heads=4", "num_kv_heads=3"]),
        ("llama", {"head_dim": 9}, ["head_dim", "even", "9"]),
        ("llama", {"rms_norm_eps": -1.0}, ["rms_norm_eps", "above 0", "-1.0"]),
        ("llama", {"attention_bias": "yes"}, ["attention_bias", "true or false", "yes"]),
        ("llama", {"torch_dtype": "float64"}, ["float64", "bfloat16"]),
        ("llama", {"quantization_config": {"bits": 8}}, ["quantization_config", "not supported yet"]),
        ("llama", {"num_local_experts": 8}, ["num_local_experts", "experts"]),
        ("llama", {"attn_logit_softcapping": 50.0}, ["attn_logit_softcapping", "50.0"]),
        ("llama", {"embedding_multiplier": 12.0}, ["embedding_multiplier", "12.0"]),
        ("llama", {"logits_scaling": 0}, ["logits_scaling", "0"]),
        ("llama", {"use_qk_norm": True}, ["use_qk_norm", "True"]),
        ("llama", {"num_experts_per_tok": 1}, ["num_experts_per_tok", "1"]),
        ("llama", {"auto_map": {"AutoModelForCausalLM": "m.M"}}, ["auto_map", "own model code"]),
        ("llama", {"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
        ("llama", {"sliding_window": 16}, ["sliding_window", "16"]),
        ("llama", {"layer_types": ["sliding_attention"] * 2}, ["layer_types", "no sliding window"]),
        ("llama", {"rope_theta": 0}, ["rope_theta", "above 0"]),
        ("llama", {"rope_scaling": "linear"}, ["rope_scaling", "object", "linear"]),
        ("llama", {"rope_scaling": {"type": "longrope", "factor": 2.0}}, ["longrope", "default, linear"]),
        ("llama", {"rope_scaling": {"type": "linear"}}, ["rope_scaling", "factor", "missing"]),
        ("llama", {"rope_scaling": {"type": "linear", "factor": "2"}}, ["factor", "'2'"]),
        ("llama", {"rope_scaling": {"type": "default", "mrope_section": [1, 2]}}, ["mrope_section", "[1, 2]"]),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2, "alpha": 9}}, ["alpha", "9"]),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_type": "default"}},
            ["rope_scaling", "equal to 'rope_parameters'"],
        ),
        (
            "llama",
            {"rope_parameters": {"full_attention": {"rope_theta": 1.0}, "sliding_attention": {"rope_theta": 2.0}}},
            ["rope_parameters", "one set of parameters for all layers"],
        ),
        # not even where the sets are equal: transformers would not read them
        ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 9.0}}}, ["without full_attention"]),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 0}}, ["factor", "above 0", "0"]),
        (
            "llama",  # the divisor 0.1 * mscale_all_dim * ln(factor) + 1 is 0
            {"rope_scaling": {"type": "yarn", "factor": math.e, "mscale": 1.0, "mscale_all_dim": -10.0}},
            ["mscale_all_dim", "-10.0", "inf"],
        ),
        ("llama", {"rope_theta": 1, "rope_scaling": {"type": "yarn", "factor": 2.0}}, ["rope_theta", "above 1"]),
        ("llama", {"rope_scaling": {"type": "llama3", "factor": 8.0}}, ["low_freq_factor", "missing"]),
        ("mistral", {"attention_bias": True}, ["attention_bias", "True"]),
        ("mistral", {"layer_types": ["full_attention"] * 2}, ["layer_types", "sliding_window"]),
        ("qwen3", {"layer_types": ["full_attention"]}, ["layer_types", "2 entries"]),
        (
            "qwen3",
            {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]},
            ["layer_types", "first ones"],
        ),
    ],
)
def test_refused_configurations(base: str, keys: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(CheckpointError, match=r"^config\.json") as error:
        read(config_json(base, **keys))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "yarn",
    [{}, {"attention_factor": 0.7}, {"mscale": 0.9, "mscale_all_dim": 0.5}, {"mscale": 0.9}, {"factor": 1.0}],
)
def test_yarn_attention_factor_is_that_of_transformers(yarn: dict[str, float]) -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    rope = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, **yarn}
    values = config_json(rope_scaling=rope)
    config = transformers.AutoConfig.for_model(**json.loads(json.dumps(values)))
    _, expected = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    assert read(values).rope_attention_factor == expected
