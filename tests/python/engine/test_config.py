"""The configuration classes: what they accept, what they refuse, and what the refusal says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tinyllm.config import GenerationConfig, GenerationSettings, KVCacheConfig, ModelConfig, QuantizationType
from tinyllm.errors import ConfigError

SHAPE = {"vocab_size": 256, "hidden_dim": 64, "intermediate_dim": 96, "num_layers": 2, "num_heads": 4}


def test_model_config_derives_heads() -> None:
    config = ModelConfig(**SHAPE)
    assert (config.num_kv_heads, config.head_dim, config.rotary_dim) == (4, 16, 16)
    assert config.quantization is QuantizationType.W8A16
    assert config.group_size == 128


def test_model_config_takes_explicit_head_dim() -> None:
    config = ModelConfig(**SHAPE | {"num_heads": 3, "num_kv_heads": 1, "head_dim": 40, "rotary_dim": 20})
    assert (config.num_kv_heads, config.head_dim, config.rotary_dim) == (1, 40, 20)


def test_numpy_scalars_become_plain_numbers() -> None:
    config = ModelConfig(**SHAPE | {"num_layers": np.int64(3), "rms_norm_eps": np.float32(0.5)})
    assert type(config.num_layers) is int
    assert type(config.rms_norm_eps) is float


@pytest.mark.parametrize("value", ["none", QuantizationType.NONE])
def test_quantization_by_name_or_member(value: object) -> None:
    assert ModelConfig(**SHAPE, quantization=value).quantization is QuantizationType.NONE


@pytest.mark.parametrize("group_size", [0, 32, 64, 128, 256])
def test_group_sizes(group_size: int) -> None:
    assert ModelConfig(**SHAPE, group_size=group_size).group_size == group_size


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_kv_heads": 3}, ["num_heads=4", "num_kv_heads=3"]),
        ({"num_heads": 6}, ["hidden_dim=64", "num_heads=6"]),
        ({"head_dim": 15}, ["head_dim", "even", "15"]),
        ({"rotary_dim": 18}, ["rotary_dim=18", "head_dim=16"]),
        ({"rotary_dim": 7}, ["rotary_dim", "even", "7"]),
        ({"group_size": 100}, ["group_size", "100", "0, 32, 64, 128, 256"]),
        ({"group_size": 128.0}, ["group_size", "integer", "128.0"]),
        ({"group_size": True}, ["group_size", "True"]),
        ({"num_layers": 0}, ["num_layers", "from 1", "0"]),
        ({"num_layers": True}, ["num_layers", "integer", "True"]),
        ({"num_layers": "2"}, ["num_layers", "integer", "'2'"]),
        ({"vocab_size": 2**31}, ["vocab_size", str(2**31 - 1), str(2**31)]),
        ({"rms_norm_eps": 0.0}, ["rms_norm_eps", "greater than 0"]),
        ({"rms_norm_eps": float("nan")}, ["rms_norm_eps", "finite", "nan"]),
        ({"rope_theta": float("inf")}, ["rope_theta", "finite", "inf"]),
        ({"rope_theta": 10**400}, ["rope_theta", "finite"]),
        ({"rope_theta": True}, ["rope_theta", "True"]),
        ({"dtype": "int8"}, ["dtype", "'float16', 'bfloat16', 'float32'", "'int8'"]),
        ({"architecture": "gpt2"}, ["architecture", "llama", "gpt2"]),
        ({"quantization": "w4a16"}, ["quantization", "W8A16", "w4a16"]),
        ({"qkv_bias": 1}, ["qkv_bias", "True or False", "1"]),
        ({"sliding_window": -1}, ["sliding_window", "-1"]),
        ({"rope_type": "longrope"}, ["rope_type", "yarn", "longrope"]),
        ({"rope_type": "yarn"}, ["rope_original_max_seq_len", "yarn"]),
        (
            {"rope_type": "llama3", "rope_original_max_seq_len": 64, "rope_low_freq_factor": 4.0},
            ["rope_high_freq_factor", "4.0"],
        ),
        (
            {"rope_type": "dynamic", "rope_original_max_seq_len": 64, "rotary_dim": 2},
            ["rotary_dim", "dynamic", "2"],
        ),
    ],
)
def test_model_config_refuses(changes: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        ModelConfig(**SHAPE | changes)
    for word in words:
        assert word in str(error.value)


def test_replace_checks_again() -> None:
    config = ModelConfig(**SHAPE)
    assert dataclasses.replace(config, group_size=64).group_size == 64
    with pytest.raises(ConfigError, match="group_size"):
        dataclasses.replace(config, group_size=65)


def test_configs_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GenerationConfig().temperature = 1.0


@pytest.mark.parametrize("make", [lambda **f: ModelConfig(**SHAPE, **f), KVCacheConfig, GenerationConfig])
def test_unknown_field_is_a_value_error(make: object) -> None:
    with pytest.raises(ValueError, match=r"no field 'colour'; valid fields: "):
        make(colour=1)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("temprature", "temperature"),
        ("max_tokens", "max_new_tokens"),
        ("topk", "top_k"),
        ("rep_penalty", "repetition_penalty"),
        ("repeat_penalty", "repetition_penalty"),
        ("repetition_penality", "repetition_penalty"),
        ("logProbs", "logprobs"),
        ("ignoreEos", "ignore_eos"),
    ],
)
def test_unknown_field_suggests_the_closest(wrong: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"no field '{wrong}'; did you mean '{right}'"):
        GenerationConfig(**{wrong: 1})


@pytest.mark.parametrize(
    "name",
    [
        *("presence_penalty", "frequency_penalty", "length_penalty", "encoder_repetition_penalty", "min_tokens"),
        *(
            "min_new_tokens",
            "max_length",
            "min_length",
            "top_a",
            "top_n",
            "min_k",
            "top_logprobs",
            "typical_p",
            "tfs_z",
        ),
        *("top_n_sigma", "num_beams", "best_of", "logit_bias", "temperature_last", "dynatemp_range", "mirostat"),
        *("stop_token_ids", "suppress_tokens", "do_sample", "n", "eos_token_id", "prompt_logprobs", "max_time"),
    ],
)
def test_a_setting_of_another_meaning_is_not_corrected(name: str) -> None:
    with pytest.raises(ValueError, match=f"no field '{name}'; valid fields: "):
        GenerationConfig(**{name: 1})


@pytest.mark.parametrize("name", ["q_bias", "k_bias", "num_key_heads", "rope_factors", "hidden_size", "num_experts"])
def test_a_model_field_of_another_meaning_is_not_corrected(name: str) -> None:
    with pytest.raises(ValueError, match=f"no field '{name}'; (valid|did you mean 'rope_factor')"):
        ModelConfig(**SHAPE, **{name: 1})


@pytest.mark.parametrize("value", [1e39, 1e-39, 1e300, 1e-300, 5e-324])
@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "repetition_penalty"])
def test_numbers_that_float32_does_not_hold_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{field} must be .*; got {value!r}".replace("+", r"\+")) as error:
        GenerationConfig(**{field: value})
    if value < 1 or field in ("temperature", "repetition_penalty"):
        assert "float32 holds" in str(error.value)
        assert "1.18e-38 to 3.4e+38" in str(error.value)
        assert ("0 or from" in str(error.value)) == (field in ("temperature", "min_p"))


def test_the_ends_of_float32_are_numbers() -> None:
    largest, smallest = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
    for value in (largest, smallest):
        assert GenerationConfig(temperature=value).temperature == value
        assert ModelConfig(**SHAPE, rope_theta=value).rope_theta == value
    assert GenerationConfig(temperature=0, min_p=0).min_p == 0


def test_kv_cache_config() -> None:
    assert KVCacheConfig() == KVCacheConfig(1, 2048, None)
    assert KVCacheConfig(max_batch_size=4, num_pages=7).num_pages == 7
    for changes in ({"max_batch_size": 0}, {"max_seq_len": 0}, {"num_pages": 0}, {"max_seq_len": 1.5}):
        (field,) = changes
        with pytest.raises(ConfigError, match=field):
            KVCacheConfig(**changes)


def test_generation_config_defaults_are_greedy_and_open_ended() -> None:
    config = GenerationConfig()
    assert config.max_new_tokens is None
    assert config.temperature == 0.0
    assert config.stop == ()
    assert config.seed is None


def test_stop_strings_are_normalised() -> None:
    assert GenerationConfig(stop="END").stop == ("END",)
    assert GenerationConfig(stop=["a", "b"]).stop == ("a", "b")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_new_tokens": 0}, ["max_new_tokens", "from 1", "or None", "0"]),
        ({"max_new_tokens": True}, ["max_new_tokens", "True"]),
        ({"max_new_tokens": 3.0}, ["max_new_tokens", "integer", "3.0"]),
        ({"temperature": -0.1}, ["temperature", "at least 0", "-0.1"]),
        ({"temperature": float("nan")}, ["temperature", "finite", "nan"]),
        ({"temperature": None}, ["temperature", "None"]),
        ({"top_k": -1}, ["top_k", "from 0", "-1"]),
        ({"top_k": 1.0}, ["top_k", "integer", "1.0"]),
        ({"top_p": 0.0}, ["top_p", "greater than 0 and at most 1", "0.0"]),
        ({"top_p": 1.1}, ["top_p", "at most 1", "1.1"]),
        ({"min_p": -0.5}, ["min_p", "at least 0 and at most 1", "-0.5"]),
        ({"min_p": 2}, ["min_p", "2"]),
        ({"repetition_penalty": 0}, ["repetition_penalty", "greater than 0"]),
        ({"seed": -1}, ["seed", "or None", "-1"]),
        ({"seed": 2**64}, ["seed", str(2**64 - 1)]),
        ({"stop": [""]}, ["stop", "non-empty", "''"]),
        ({"stop": [1]}, ["stop", "1"]),
        ({"stop": b"x"}, ["stop", "b'x'"]),
        ({"stop": 5}, ["stop", "5"]),
        ({"logprobs": 1}, ["logprobs", "True or False", "1"]),
        ({"ignore_eos": "no"}, ["ignore_eos", "'no'"]),
    ],
)
def test_generation_config_refuses(changes: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ValueError, match="GenerationConfig") as error:
        GenerationConfig(**changes)
    for word in words:
        assert word in str(error.value)


def test_generation_settings_are_the_fields_of_generation_config() -> None:
    fields = {field.name: field.type for field in dataclasses.fields(GenerationConfig)}
    # Both are strings as written, because the module does not evaluate its annotations.
    settings = {name: kind.__forward_arg__ for name, kind in GenerationSettings.__annotations__.items()}
    assert list(settings.items()) == list(fields.items())
    assert GenerationSettings.__required_keys__ == frozenset()
