"""Hugging Face checkpoints: safetensors files, generation defaults, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoint_files import config_json, huggingface_name, model_config, random_tensors, write_huggingface
from tinyllm.checkpoints import count_parameters, expected_tensors, open_checkpoint
from tinyllm.checkpoints.huggingface.config import read_model_config
from tinyllm.errors import CheckpointError

BF16 = np.dtype(ml_dtypes.bfloat16)


def loaded(path: Path) -> dict[str, np.ndarray]:
    return {info.name: info.load() for info in open_checkpoint(path).tensors()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)  # names and load order
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].flags.c_contiguous, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An intact checkpoint that a test may damage."""
    values = config_json()
    return write_huggingface(tmp_path / "model", values, random_tensors(model_config(values)))


def write_config(directory: Path, **changes: Any) -> None:
    (directory / "config.json").write_text(json.dumps(config_json(**changes)))


def refusal(path: Path | str) -> str:
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(path)
    return str(error.value)


# Tensors


@pytest.mark.parametrize(("dtype", "name"), [(np.float32, "float32"), (np.float16, "float16"), (BF16, "bfloat16")])
def test_loads_each_stored_type(tmp_path: Path, dtype: Any, name: str) -> None:
    values = config_json(torch_dtype=name)
    tensors = random_tensors(model_config(values), dtype)
    path = write_huggingface(tmp_path, values, tensors)
    assert open_checkpoint(path).config.dtype == name
    assert_same(loaded(path), tensors)


def test_dtype_falls_back_to_the_stored_type(tmp_path: Path) -> None:
    values = config_json(torch_dtype=...)
    path = write_huggingface(tmp_path, values, random_tensors(model_config(values), BF16))
    assert open_checkpoint(path).config.dtype == "bfloat16"


def test_shards_equal_one_file(tmp_path: Path) -> None:
    values = config_json(tie_word_embeddings=False)
    tensors = random_tensors(model_config(values))
    path = write_huggingface(tmp_path, values, tensors, shards=3)
    assert len({info.file for info in open_checkpoint(path).tensors()}) == 3
    assert_same(loaded(path), tensors)


@pytest.mark.parametrize(
    ("base", "keys", "flags"),
    [
        ("llama", {}, {}),
        ("llama", {"attention_bias": True, "mlp_bias": True}, {"qkv_bias": True, "o_bias": True, "mlp_bias": True}),
        ("llama", {"head_dim": 12}, {"head_dim": 12}),
        ("mistral", {"sliding_window": None}, {}),
        ("qwen2", {}, {"qkv_bias": True}),
        ("qwen3", {"head_dim": 16}, {"qk_norm": True, "head_dim": 16}),
        ("qwen3", {"attention_bias": True}, {"qk_norm": True, "head_dim": 128, "qkv_bias": True, "o_bias": True}),
    ],
)
def test_architectures(tmp_path: Path, base: str, keys: dict[str, Any], flags: dict[str, Any]) -> None:
    values = config_json(base, **keys)
    expected = model_config(values, architecture=base, dtype="float32", max_seq_len=256, **flags)
    tensors = random_tensors(expected)
    path = write_huggingface(tmp_path, values, tensors)
    checkpoint = open_checkpoint(path)
    assert checkpoint.config == expected
    assert_same(loaded(path), tensors)
    assert count_parameters(expected) == sum(array.size for array in tensors.values())


def test_tensor_info_describes_the_file(directory: Path) -> None:
    info = next(info for info in open_checkpoint(directory).tensors() if info.name == "layers.1.mlp.down_proj.weight")
    assert info.stored_name == "model.layers.1.mlp.down_proj.weight"
    assert info.shape == (32, 40)
    assert (info.dtype, info.stored_bytes) == ("F32", 32 * 40 * 4)
    assert info.file == directory / "model.safetensors"


def test_loading_keeps_one_tensor_resident(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc/self/status, which Linux has")
    values = config_json(vocab_size=2**16, num_hidden_layers=1, tie_word_embeddings=False)
    tensors = random_tensors(model_config(values))
    largest = max(array.nbytes for array in tensors.values())
    tensor_infos = list(open_checkpoint(write_huggingface(tmp_path, values, tensors)).tensors())
    before = _mapped_file_bytes()
    for _ in range(4):
        for info in tensor_infos:
            info.load().sum()  # touches every page
    assert _mapped_file_bytes() - before < largest


def _mapped_file_bytes() -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssFile"].split()[0]) * 1024


def test_old_rotary_frequencies_are_accepted(tmp_path: Path) -> None:
    values = config_json()
    tensors = random_tensors(model_config(values))
    extra = {"layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    path = write_huggingface(tmp_path, values, tensors | extra)
    assert_same(loaded(path), tensors)


def test_equal_output_matrix_beside_tied_embedding_is_not_loaded(tmp_path: Path) -> None:
    values = config_json()
    tensors = random_tensors(model_config(values))
    path = write_huggingface(tmp_path, values, tensors | {"lm_head.weight": tensors["embed_tokens.weight"]})
    assert open_checkpoint(path).config.tie_word_embeddings
    assert_same(loaded(path), tensors)


def test_different_output_matrix_unties(tmp_path: Path) -> None:
    values = config_json()
    tensors = random_tensors(model_config(values)) | {"lm_head.weight": np.ones((48, 32), np.float32)}
    path = write_huggingface(tmp_path, values, tensors)
    assert not open_checkpoint(path).config.tie_word_embeddings
    assert_same(loaded(path), tensors)


# Damaged files


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm.weight": None}, ["model.norm.weight", "missing", "[32]"]),
        ({"layers.0.mlp.up_proj.weight": np.ones((32, 40), np.float32)}, ["up_proj", "[40, 32]", "[32, 40]"]),
        ({"layers.1.mlp.up_proj.weight": np.ones((40, 32), np.int8)}, ["layers.1.mlp.up_proj", "F32", "found I8"]),
        ({"layers.0.self_attn.q_proj.bias": np.ones(32, np.float32)}, ["q_proj.bias", "unexpected", "[32]"]),
        ({"layers.2.mlp.up_proj.weight": np.ones((40, 32), np.float32)}, ["layers.2.mlp.up_proj", "unexpected"]),
        ({"lm_head.weight": np.ones((47, 32), np.float32)}, ["lm_head.weight", "[48, 32]", "[47, 32]"]),
    ],
)
def test_wrong_tensors(tmp_path: Path, change: dict[str, np.ndarray | None], words: list[str]) -> None:
    values = config_json()
    tensors = {**random_tensors(model_config(values)), **change}
    path = write_huggingface(tmp_path, values, {name: array for name, array in tensors.items() if array is not None})
    message = refusal(path)
    assert str(path) in message
    for word in words:
        assert word in message


def test_many_wrong_tensors_are_summarised(directory: Path) -> None:
    write_config(directory, hidden_size=64)
    message = refusal(directory)
    assert "expected shape [48, 64], found [48, 32]" in message
    assert message.endswith(f"... and {len(expected_tensors(model_config(config_json()))) - 8} more")


@pytest.mark.parametrize("keys", [{}, {"layer_types": ["full_attention"] * 2}])
def test_absurd_number_of_layers_costs_no_memory(directory: Path, keys: dict[str, Any]) -> None:
    write_config(directory, num_hidden_layers=2**31 - 1, **keys)
    assert str(2**31 - 1) in refusal(directory)


def test_sizes_that_no_engine_takes_are_refused_before_tensors_are_compared(directory: Path) -> None:
    write_config(directory, head_dim=1024)
    assert f"{directory}: head_dim = 1024 is not supported" in refusal(directory)


def test_truncated_data_names_the_tensor(directory: Path) -> None:
    file = directory / "model.safetensors"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1])
    message = refusal(directory)
    assert f"{file}: truncated: tensor 'model." in message
    assert f"byte {size}, found {size - 1} bytes" in message


@pytest.mark.parametrize("length", [0, 7, 8, 100])
def test_truncated_header(directory: Path, length: int) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    assert f"found {length} bytes in all" in refusal(directory)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "the header: expected a JSON object, found list"),
        (b'{"a": 1}', "tensor 'a': expected dtype, shape and data_offsets"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "tensor 'a': expected dtype"),
        (b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}', "expected 12 bytes, found 4"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}', "not a valid safetensors file"),
    ],
)
def test_malformed_header(directory: Path, header: bytes, words: str) -> None:
    data = len(header).to_bytes(8, "little") + header + bytes(8)
    (directory / "model.safetensors").write_bytes(data)
    assert words in refusal(directory)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 1500), replacement=st.binary(min_size=1, max_size=4))
def test_damaged_header_never_raises_anything_else(directory: Path, position: int, replacement: bytes) -> None:
    file = directory / "model.safetensors"
    intact = file.read_bytes()
    try:
        file.write_bytes(intact[:position] + replacement + intact[position + len(replacement) :])
        loaded(directory)
    except CheckpointError:
        pass
    finally:
        file.write_bytes(intact)


def test_missing_shard(tmp_path: Path) -> None:
    values = config_json()
    path = write_huggingface(tmp_path, values, random_tensors(model_config(values)), shards=3)
    (path / "model-00002-of-00003.safetensors").unlink()
    message = refusal(path)
    assert "model-00002-of-00003.safetensors: this shard is missing" in message


@pytest.mark.parametrize(
    ("name", "shard", "words"),
    [
        (
            "model.norm.weight",
            "../elsewhere.safetensors",
            "expected file names of at most 255 characters in 'weight_map'",
        ),
        ("model.norm.weight", "a" * 300, "expected file names of at most 255 characters"),
        ("model.norm.weight", "\u00e9" * 255, "cannot be read: File name too long"),
        ("model.norm.weight", "\ud800.safetensors", "found '\\ud800.safetensors'"),
        ("model.norm.weight", "a\0b", "found 'a\\x00b'"),
        ("model.norm.weight", 7, "found 7"),
        ("model.norm.weight", "", "expected a regular file, found a directory"),
        ("model.norm.weight", "model-00001-of-00002.safetensors", "found model-00002-of-00002.safetensors"),
        ("model.normal.weight", "model-00001-of-00002.safetensors", "found no such tensor"),
    ],
)
def test_wrong_index_entry(tmp_path: Path, name: str, shard: Any, words: str) -> None:
    values = config_json()
    path = write_huggingface(tmp_path, values, random_tensors(model_config(values)), shards=2)
    index_file = path / "model.safetensors.index.json"
    weight_map = json.loads(index_file.read_text())["weight_map"]
    assert weight_map["model.norm.weight"] == "model-00002-of-00002.safetensors"
    index_file.write_text(json.dumps({"weight_map": weight_map | {name: shard}}))
    assert words in refusal(path)


@pytest.mark.parametrize("weight_map", [{}, [], None])
def test_index_without_entries(tmp_path: Path, weight_map: Any) -> None:
    write_huggingface(tmp_path, config_json(), {}, shards=2)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "expected an object 'weight_map'" in refusal(tmp_path)


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    values = config_json()
    path = write_huggingface(tmp_path, values, random_tensors(model_config(values)), shards=2)
    shutil.copy(path / "model-00001-of-00002.safetensors", path / "model-00002-of-00002.safetensors")
    assert "is also in" in refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "expected a JSON object, found list"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_malformed_config(directory: Path, content: bytes, words: str) -> None:
    (directory / "config.json").write_bytes(content)
    message = refusal(directory)
    assert f"{directory / 'config.json'}: " in message
    assert words in message


def test_directory_without_config_or_weights(tmp_path: Path, directory: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    assert "pass the file: model.gguf" in refusal(tmp_path)
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    assert "pytorch_model.bin cannot be read" in refusal(directory)


def test_paths_that_are_no_checkpoint(tmp_path: Path) -> None:
    assert "no such file or directory" in refusal(tmp_path / "nothing")
    with pytest.raises(TypeError, match="must be a path or a name, got int: 5"):
        open_checkpoint(5)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    assert "found a file of type '.safetensors'" in refusal(file)


# generation_config.json


@pytest.mark.parametrize(
    ("generation", "defaults"),
    [
        ({}, {}),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {}),
        ({"temperature": 0.6}, {}),  # do_sample is false where it is absent
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.05},
            {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.05},
        ),
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50}),  # what transformers fills in
        ({"do_sample": True, "top_k": None, "top_p": 0.5}, {"temperature": 1.0, "top_k": 50, "top_p": 0.5}),
        ({"do_sample": True, "top_k": 0}, {"temperature": 1.0, "top_k": 0}),
        ({"stop_strings": ["###"]}, {"stop": ["###"]}),
        ({"stop_strings": "###"}, {"stop": "###"}),
        ({"stop_strings": None}, {}),
        ({"repetition_penalty": 1.05, "num_beams": 1, "max_length": 99}, {"repetition_penalty": 1.05}),
    ],
)
def test_generation_defaults(directory: Path, generation: dict[str, Any], defaults: dict[str, Any]) -> None:
    (directory / "generation_config.json").write_text(json.dumps(generation))
    assert open_checkpoint(directory).generation_defaults == defaults


def test_unsupported_generation_settings_warn(directory: Path) -> None:
    (directory / "generation_config.json").write_text(json.dumps({"num_beams": 4, "no_repeat_ngram_size": 3}))
    with pytest.warns(UserWarning, match="num_beams=4, no_repeat_ngram_size=3"):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    ("generation", "words"),
    [
        ({"do_sample": True, "top_p": 7}, "GenerationConfig.top_p"),
        ({"do_sample": True, "top_k": 1.5}, "GenerationConfig.top_k"),
        ({"do_sample": "yes"}, "do_sample"),
        ({"stop_strings": [3]}, "GenerationConfig.stop"),
        ({"eos_token_id": 48}, "token id from 0 to 47, found 48"),
        ({"eos_token_id": [1, True]}, "found True"),
    ],
)
def test_unusable_generation_config(directory: Path, generation: dict[str, Any], words: str) -> None:
    (directory / "generation_config.json").write_text(json.dumps(generation))
    assert words in refusal(directory)


@pytest.mark.parametrize(
    ("config_eos", "generation_eos", "expected"),
    [(2, ..., (2,)), (2, [5, 6, 5], (5, 6)), (2, None, (2,)), ([3, 4], ..., (3, 4)), (..., 0, (0,)), (..., ..., ())],
)
def test_eos_token_ids(directory: Path, config_eos: Any, generation_eos: Any, expected: tuple[int, ...]) -> None:
    write_config(directory, eos_token_id=config_eos)
    if generation_eos is not ...:
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": generation_eos}))
    assert open_checkpoint(directory).eos_token_ids == expected


# The Hub


def test_name_is_fetched_with_needed_files_only(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    available = [
        *("config.json", "model.safetensors", "model-00001-of-00002.safetensors", "tokenizer.json"),
        *("consolidated.safetensors", "pytorch_model.bin", "onnx/model.onnx", "original/params.json", "README.md"),
    ]
    fetched: dict[str, list[str]] = {}

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        fetched[name] = list(filter_repo_objects(available, allow_patterns=allow_patterns))
        return str(directory)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert open_checkpoint("owner/model").path == directory
    assert fetched == {"owner/model": available[:4]}


def test_offline_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    message = refusal("owner/model-that-is-not-cached")
    assert "no such file or directory" in message
    assert "hf download owner/model-that-is-not-cached" in message


# Against transformers


@pytest.mark.parametrize(
    ("base", "keys"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}}),
        ("mistral", {"sliding_window": 16, "head_dim": 12}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
        ("qwen3", {"head_dim": 16, "tie_word_embeddings": False}),
    ],
)
def test_reads_what_transformers_saves(tmp_path: Path, base: str, keys: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    values = config_json(base, **keys)
    config = transformers.AutoConfig.for_model(**values)
    model = transformers.AutoModelForCausalLM.from_config(config).to(torch.float16)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    tensors = loaded(tmp_path)
    state = {name: array.numpy() for name, array in model.state_dict().items()}
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    assert {huggingface_name(name) for name in tensors} == set(state)
    for name, array in tensors.items():
        np.testing.assert_array_equal(array, state[huggingface_name(name)])
    expected = read_model_config({**values, "torch_dtype": "float16"}, "config.json", lambda: "unused")
    assert open_checkpoint(tmp_path).config == expected
