"""GGUF checkpoints: metadata, tensor types, the order of query and key rows, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import TYPE_CHECKING, Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoint_files import LLAMA, model_config, permute_rows, random_tensors, write_gguf
from tinyllm.checkpoints import open_checkpoint
from tinyllm.checkpoints.gguf.file import unpermute_rows
from tinyllm.checkpoints.gguf.header import GgufHeader
from tinyllm.config import ModelConfig
from tinyllm.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

Kind = gguf.GGMLQuantizationType

CONFIG = model_config(LLAMA, max_seq_len=256)
# Widths that every block size divides: the largest is 256.
WIDE = dataclasses.replace(
    CONFIG, hidden_dim=256, intermediate_dim=256, head_dim=64, rotary_dim=64, num_layers=1, tie_word_embeddings=False
)


def loaded(path: Path) -> dict[str, np.ndarray]:
    return {info.name: info.load() for info in open_checkpoint(path).tensors()}


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(path)
    return str(error.value)


def write(path: Path, metadata: dict[str, Any] | None = None, config: ModelConfig = CONFIG, **extra: Any) -> Path:
    return write_gguf(path / "model.gguf", config, {**random_tensors(config), **extra}, metadata=metadata)


# Tensors


@pytest.mark.parametrize(
    ("fields", "dtype"),
    [
        ({}, "float16"),
        ({"tie_word_embeddings": False}, "float16"),
        ({"qkv_bias": True, "o_bias": True, "mlp_bias": True}, "float16"),
        ({"head_dim": 12, "rotary_dim": 12}, "float16"),
        ({"architecture": "qwen2", "qkv_bias": True}, "bfloat16"),
        ({"architecture": "qwen3", "qk_norm": True, "head_dim": 16, "rotary_dim": 16}, "bfloat16"),
    ],
)
def test_architectures(tmp_path: Path, fields: dict[str, Any], dtype: str) -> None:
    config = dataclasses.replace(CONFIG, **fields)
    tensors = random_tensors(config)
    path = write(tmp_path, config=config)
    assert open_checkpoint(path).config == dataclasses.replace(config, dtype=dtype)
    found = loaded(path)
    assert list(found) == list(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "dtype", "activations"),
    [(Kind.F16, np.float16, "float16"), (Kind.BF16, ml_dtypes.bfloat16, "bfloat16")],
)
def test_sixteen_bit_types_stay_as_they_are(tmp_path: Path, kind: Kind, dtype: Any, activations: str) -> None:
    tensors = random_tensors(CONFIG)
    path = write_gguf(tmp_path / "model.gguf", CONFIG, tensors, kind)
    assert open_checkpoint(path).config.dtype == activations
    for name, array in loaded(path).items():
        assert array.dtype == (np.float32 if array.ndim == 1 else dtype), name
        np.testing.assert_array_equal(array, tensors[name].astype(array.dtype), err_msg=name)


DEQUANTISABLE = sorted(gguf.quants._type_traits, key=lambda kind: kind.name)


@pytest.mark.parametrize("kind", [kind for kind in DEQUANTISABLE if kind != Kind.BF16], ids=lambda kind: kind.name)
def test_every_quantised_type(tmp_path: Path, kind: Kind) -> None:
    """Random blocks, because the gguf package quantises to a few of the types only; NaN stands for itself."""
    block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    generator = np.random.default_rng(0)
    stored, expected = {}, {}
    with np.errstate(all="ignore"):  # random bytes are large and small numbers
        for name, array in random_tensors(WIDE).items():
            stored[name] = expected[name] = array
            if array.ndim == 2:
                row_bytes = array.shape[1] // block_elements * block_bytes
                stored[name] = generator.integers(0, 256, (array.shape[0], row_bytes), np.uint8)
                expected[name] = gguf.quants.dequantize(stored[name], kind)
        found = loaded(write_gguf(tmp_path / "model.gguf", WIDE, stored, kind))
    for name, array in expected.items():
        assert found[name].dtype == np.float32, name
        assert found[name].flags.c_contiguous, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_large_tensors_are_dequantised_in_parts(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, vocab_size=40_000, intermediate_dim=64)  # 40,000 x 32 make two parts
    tensors = random_tensors(config)
    path = write_gguf(tmp_path / "model.gguf", config, tensors, Kind.Q8_0)
    name = "embed_tokens.weight"
    expected = gguf.quants.dequantize(gguf.quants.quantize(tensors[name], Kind.Q8_0), Kind.Q8_0)
    np.testing.assert_array_equal(loaded(path)[name], expected)


@pytest.mark.parametrize("shape", [(24, 5), (24,)])
def test_unpermuted_rows_turn_as_pairs(shape: tuple[int, ...]) -> None:
    """RoPE on adjacent rows of the stored order equals RoPE on rows half a head apart of the loaded order."""
    heads, width = 4, 6
    rows = np.random.default_rng(0).standard_normal(shape)
    permuted = permute_rows(rows, heads)
    np.testing.assert_array_equal(unpermute_rows(permuted, heads), rows)
    for head in range(heads):
        for pair in range(width // 2):
            first = head * width + pair
            adjacent = permuted[head * width + 2 * pair : head * width + 2 * pair + 2]
            np.testing.assert_array_equal(adjacent, rows[[first, first + width // 2]])


def test_rope_divisors_come_first(tmp_path: Path) -> None:
    divisors = np.linspace(1, 8, CONFIG.rotary_dim // 2, dtype=np.float32)
    path = write(tmp_path, **{"rope_freqs.weight": divisors})
    checkpoint = open_checkpoint(path)
    info = next(checkpoint.tensors())
    assert info.name == "rope_freqs.weight"
    np.testing.assert_array_equal(info.load(), divisors)
    assert checkpoint.config.rope_type == "default"


def test_old_rotary_frequencies_are_accepted(tmp_path: Path) -> None:
    path = write(tmp_path, **{"blk.0.attn_rot_embd": np.ones(4, np.float32)})
    assert "blk.0.attn_rot_embd" not in loaded(path)


def test_tensors_stay_loadable_after_close(tmp_path: Path) -> None:
    with open_checkpoint(write(tmp_path)) as checkpoint:
        infos = list(checkpoint.tensors())
    np.testing.assert_array_equal(infos[0].load(), random_tensors(CONFIG)["embed_tokens.weight"])
    with pytest.raises(CheckpointError, match="closed before its tokenizer"):
        _ = checkpoint.tokenizer


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"norm.weight": np.ones(31, np.float32)}, ["output_norm.weight", "expected shape [32], found [31]"]),
        ({"layers.0.mlp.up_proj.weight": np.ones((32, 40), np.float32)}, ["blk.0.ffn_up", "[40, 32]", "[32, 40]"]),
        ({"norm.weight": np.ones(32, np.int8)}, ["output_norm.weight", "found I8"]),
        ({"blk.0.ffn_gate_exps.weight": np.ones((2, 4), np.float32)}, ["ffn_gate_exps", "unexpected"]),
        ({"rope_freqs.weight": np.ones(3, np.float32)}, ["rope_freqs.weight", "[4]", "[3]"]),
    ],
)
def test_wrong_tensors(tmp_path: Path, extra: dict[str, np.ndarray], words: list[str]) -> None:
    path = write(tmp_path, **extra)
    message = refusal(path)
    assert str(path) in message
    for word in words:
        assert word in message


def test_missing_tensor(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG)
    del tensors["layers.1.self_attn.o_proj.weight"]
    message = refusal(write_gguf(tmp_path / "model.gguf", CONFIG, tensors))
    assert "tensor 'blk.1.attn_output.weight' is missing; expected shape [32, 32]" in message


# Metadata


@pytest.mark.parametrize(
    ("metadata", "fields"),
    [
        ({"attention.key_length": ..., "attention.value_length": ..., "rope.dimension_count": ...}, {"head_dim": 8}),
        ({"rope.freq_base": 5e5}, {"rope_theta": 5e5, "rope_type": "default"}),
        ({"rope.freq_base": ...}, {"rope_theta": 10000.0}),
        ({"attention.layer_norm_rms_epsilon": 1e-5}, {"rms_norm_eps": 1e-5}),
        ({"attention.sliding_window": 16}, {"sliding_window": 16, "sliding_window_first_layer": 0}),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 3.0}, {"rope_type": "default"}),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {"rope_type": "linear", "rope_factor": 4.0}),
        ({"rope.scaling.factor": 4.0}, {"rope_type": "linear", "rope_factor": 4.0}),
        ({"rope.scale_linear": 2.0}, {"rope_type": "linear", "rope_factor": 2.0}),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 0.0}, {"rope_type": "default"}),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64},
            {
                "rope_type": "yarn",
                "rope_factor": 4.0,
                "rope_original_max_seq_len": 64,
                "rope_attention_factor": 0.1 * math.log(4.0) + 1.0,
            },
        ),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.attn_factor": 2.0,
                "rope.scaling.yarn_attn_factor": 1.5,
                "rope.scaling.yarn_ext_factor": 1.0,
                "rope.scaling.yarn_beta_fast": 16.0,
                "rope.scaling.yarn_beta_slow": 2.0,
                "rope.scaling.finetuned": True,
            },
            {
                "rope_original_max_seq_len": 256,
                "rope_attention_factor": 3.0,
                "rope_beta_fast": 16.0,
                "rope_beta_slow": 2.0,
            },
        ),
        ({"tokenizer.ggml.tokens": [f"t{i}" for i in range(48)], "vocab_size": ...}, {"vocab_size": 48}),
        ({"tensor_data_layout": "Meta AI original pth", "expert_count": 0, "logit_scale": 1.0}, {}),
        ({"general.file_type": 2, "general.name": "any", "quantize.imatrix.chunks_count": 1}, {}),
    ],
)
def test_metadata(tmp_path: Path, metadata: dict[str, Any], fields: dict[str, Any]) -> None:
    config = open_checkpoint(write(tmp_path, metadata)).config
    assert {field: getattr(config, field) for field in fields} == fields


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"general.architecture": "gemma2"}, ["'gemma2'", "llama, qwen2, qwen3"]),
        ({"general.type": "adapter"}, ["type", "'model'", "adapter"]),
        ({"split.count": 3}, ["split", "3", "llama-gguf-split --merge"]),
        ({"block_count": ...}, ["block_count", "missing"]),
        ({"block_count": "2"}, ["block_count", "integer", "'2'"]),
        ({"block_count": 2**31 - 1}, [str(2**31 - 1), "layers"]),
        ({"feed_forward_length": [40, 40]}, ["feed_forward_length", "integer", "[40, 40]"]),
        ({"attention.head_count": 3, "attention.head_count_kv": 2}, ["num_heads=3", "num_kv_heads=2"]),
        ({"attention.value_length": 4}, ["attention.value_length", "(8)", "4"]),
        ({"rope.dimension_count": 4}, ["rope.dimension_count", "(8)", "4"]),
        ({"attention.causal": False}, ["attention.causal", "False"]),
        ({"expert_count": 8}, ["expert_count", "8", "experts"]),
        ({"attention.scale": 0.5}, ["attention.scale", "0.5"]),
        ({"logit_scale": 2.0}, ["logit_scale", "2.0"]),
        ({"attn_logit_softcapping": 50.0}, ["attn_logit_softcapping", "50.0"]),
        ({"rope.scaling.type": "longrope"}, ["rope.scaling.type", "none, linear, yarn", "longrope"]),
        ({"rope.scaling.type": "yarn", "rope.scaling.yarn_ext_factor": 0.5}, ["yarn_ext_factor", "0.5"]),
        ({"rope.scaling.type": "yarn", "rope.scaling.yarn_log_multiplier": 0.1}, ["yarn_log_multiplier", "0.1"]),
        ({"vocab_size": ...}, ["vocab_size", "list of tokens"]),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, ["token_embd.weight", "[2, 32]", "[48, 32]"]),
        ({"general.sampling.top_p": 3.0}, ["GenerationConfig.top_p", "3.0"]),
    ],
)
def test_refused_metadata(tmp_path: Path, metadata: dict[str, Any], words: list[str]) -> None:
    path = write(tmp_path, metadata)
    message = refusal(path)
    assert str(path) in message
    for word in words:
        assert word in message


def test_rope_divisors_beside_scaling_are_refused(tmp_path: Path) -> None:
    extra = {"rope_freqs.weight": np.ones(4, np.float32)}
    assert "rope.scaling.type" in refusal(write(tmp_path, {"rope.scaling.factor": 2.0}, **extra))


def test_sampling_defaults(tmp_path: Path) -> None:
    names = {"temp": 0.5, "top_k": 40, "top_p": 0.75, "min_p": 0.125, "penalty_repeat": 1.5}
    path = write(tmp_path, {f"general.sampling.{name}": value for name, value in names.items()})
    assert open_checkpoint(path).generation_defaults == {
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.75,
        "min_p": 0.125,
        "repetition_penalty": 1.5,
    }


def test_unsupported_sampling_settings_warn(tmp_path: Path) -> None:
    path = write(tmp_path, {"general.sampling.mirostat": 2})
    with pytest.warns(UserWarning, match="mirostat=2"):
        open_checkpoint(path)


def test_without_tokenizer(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(tmp_path))
    assert checkpoint.eos_token_ids == ()
    with pytest.raises(CheckpointError, match="tokenizer"):
        _ = checkpoint.tokenizer


# Damaged files


def test_truncated_data_names_the_tensor(tmp_path: Path) -> None:
    path = write(tmp_path)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size - 64])
    message = refusal(path)
    assert f"{path}: not a valid GGUF file: truncated: tensor 'output_norm.weight'" in message
    assert f"found {size - 64} bytes" in message


def test_truncated_header_says_how_much_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    assert "truncated: expected" in refusal(path)
    assert "found 200" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"GG", b"GGUF", b"not a GGUF file, but long enough to be read as one"])
def test_not_a_gguf_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert f"{path}: not a valid GGUF file: " in refusal(path)


def test_big_endian_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "little-endian" in refusal(path)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_header_never_raises_anything_else(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "model.gguf"
    if not (tmp_path / "intact").exists():
        write(tmp_path, {"tokenizer.ggml.tokens": [f"t{i}" for i in range(48)]}).rename(tmp_path / "intact")
    intact = (tmp_path / "intact").read_bytes()
    header_bytes = GgufHeader(tmp_path / "intact").data_offset
    position = data.draw(st.integers(0, header_bytes - 1))
    replacement = data.draw(st.binary(min_size=1, max_size=4))
    path.write_bytes(intact[:position] + replacement + intact[position + len(replacement) :])
    with contextlib.suppress(CheckpointError):
        loaded(path)


# A real file


def test_smollm2(smollm2_gguf: Path) -> None:
    checkpoint = open_checkpoint(smollm2_gguf)
    assert checkpoint.config == ModelConfig(
        vocab_size=49152,
        hidden_dim=576,
        intermediate_dim=1536,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        max_seq_len=8192,
        rms_norm_eps=1e-5,
        rope_theta=100000.0,
        tie_word_embeddings=True,
    )
    assert 2 in checkpoint.eos_token_ids
    kinds = {info.dtype for info in checkpoint.tensors()}
    assert kinds == {"F32", "Q4_1", "Q8_0"}


def test_smollm2_tensors_equal_those_of_transformers(smollm2_gguf: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32
    )
    state = model.state_dict()
    infos = list(open_checkpoint(smollm2_gguf).tensors())
    assert len(infos) == len(state) - 1  # the output matrix is tied
    for info in infos:
        np.testing.assert_array_equal(info.load(), state[f"model.{info.name}"].numpy(), err_msg=info.name)
