"""Whole models against transformers and against themselves: every architecture, format and RoPE variant."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import ml_dtypes  # noqa: F401  registers "bfloat16" with NumPy, which safetensors needs to read it
import numpy as np
import pytest

import tinyllm
from needs import require_gpu
from oracle import dequantize, quantize
from oracle_sampling import log_softmax
from reference import CASES, ReferenceCase, case
from tinyllm import KVCacheConfig, QuantizationType
from tinyllm.errors import CheckpointError
from tolerances import MODEL_LOGITS, MODEL_LOGITS_NORM, assert_close

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

# What runs where: float32 activations exist on the CPU only.
PLATFORMS = [
    ("cpu", "float32"),
    ("cpu", "float16"),
    ("cpu", "bfloat16"),
    ("cuda", "float16"),
    ("cuda", "bfloat16"),
]
MAX_SEQ_LEN = 192  # two and a bit pages; some models were "trained" for less, and scaled RoPE goes past that
DECODE_STEPS = 24


@pytest.fixture(params=PLATFORMS, ids="-".join)
def platform(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Device and activation type; CUDA is skipped (or fails, see conftest.py) where no usable GPU is."""
    device, dtype = request.param
    if device == "cuda":
        require_gpu(request.config)
    return device, dtype


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def model_case(request: pytest.FixtureRequest) -> ReferenceCase:
    return request.param


def load(path: Path, device: str = "cpu", dtype: str = "float32", **arguments: Any) -> tinyllm.Model:
    """A model of tests/data with 16-bit or float32 weights, unless `arguments` say otherwise."""
    arguments = {"quantization": QuantizationType.NONE, **arguments}
    kv_cache = KVCacheConfig(max_batch_size=1, max_seq_len=MAX_SEQ_LEN)
    return tinyllm.load(path, device=device, dtype=dtype, kv_cache=kv_cache, **arguments)


def relative_distance(got: NDArray, want: NDArray) -> float:
    """Norm of the difference over the norm of `want`."""
    return float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want))


def assert_logits_close(got: NDArray[np.float32], want: NDArray[np.float32], dtype: str) -> None:
    """Compares as a whole first, because one wrong layer shows best there, then every single logit."""
    assert got.dtype == np.float32
    assert got.shape == want.shape
    assert relative_distance(got, want) <= MODEL_LOGITS_NORM[dtype]
    assert_close(got, want, MODEL_LOGITS[dtype], scale=np.sqrt(np.mean(np.square(want))))


def test_logits_equal_transformers(model_case: ReferenceCase, platform: tuple[str, str]) -> None:
    reference = model_case.load()
    with load(model_case.path, *platform) as model:
        logits = model.logits(reference.token_ids.tolist())
    assert logits.shape == (len(reference.token_ids), reference.logits.shape[1])
    assert_logits_close(logits[reference.positions], reference.logits, platform[1])


def generated(model: tinyllm.Model, prompt: list[int], steps: int) -> tuple[list[int], list[float]]:
    """Token ids and log-probabilities of a greedy continuation that end tokens do not stop."""
    pieces = list(model.stream(prompt, max_new_tokens=steps, temperature=0.0, logprobs=True, ignore_eos=True))
    return [piece.token_id for piece in pieces], [piece.logprob for piece in pieces]


def test_greedy_continuation_equals_transformers(model_case: ReferenceCase) -> None:
    # Step by step with a cache on both sides. Dynamic RoPE past its original context is in here: each new token
    # is rotated for the length so far, while cached keys keep the rotation that they were given.
    reference = model_case.load()
    with load(model_case.path) as model:
        ids, logprobs = generated(model, reference.token_ids.tolist(), len(reference.greedy_ids))
    assert ids == reference.greedy_ids.tolist()
    # A log-probability is a difference of logits of a few units.
    assert_close(logprobs, reference.greedy_logprobs, MODEL_LOGITS["float32"], scale=np.abs(reference.logits).max())


# Past its original context, dynamic RoPE rotates a prompt by its whole length but decoded tokens by the length at
# their time: there the greedy continuation above is the test.
@pytest.mark.parametrize(
    "model_case", [case for case in CASES if case.name != "llama_dynamic-past"], ids=lambda case: case.name
)
def test_decode_equals_prefill(model_case: ReferenceCase, platform: tuple[str, str]) -> None:
    reference = model_case.load()
    prompt = reference.token_ids.tolist()
    steps = len(reference.greedy_ids) if model_case.name == "llama_dynamic-within" else DECODE_STEPS
    # int8 weights with one activation type, 16-bit weights with the others.
    quantization = QuantizationType.W8A16 if platform[1] == "float16" else QuantizationType.NONE
    with load(model_case.path, *platform, quantization=quantization) as model:
        ids, logprobs = generated(model, prompt, steps)
        logits = model.logits(prompt + ids[:-1])[len(prompt) - 1 :]
    assert len(ids) == steps
    expected = [log_softmax(row)[token_id] for row, token_id in zip(logits, ids, strict=True)]
    assert_close(logprobs, expected, MODEL_LOGITS[platform[1]], scale=np.abs(logits).max())


def test_chunked_equals_whole(model_case: ReferenceCase, platform: tuple[str, str]) -> None:
    # Sequences cross a page (64 tokens); a step of 16 tokens makes their chunks end inside, at and beyond it.
    token_ids = np.tile(model_case.load().token_ids, 3)[:150].tolist()
    with load(model_case.path, *platform) as model:
        whole = model.logits(token_ids)
    with load(model_case.path, *platform, max_step_tokens=16) as model:
        chunked = model.logits(token_ids)
    np.testing.assert_array_equal(chunked, whole)


def with_weights(source: Path, target: Path, change: Callable[[str, NDArray], NDArray]) -> Path:
    """Copy a Hugging Face checkpoint to `target` as float32, each tensor passed through `change(name, values)`."""
    from safetensors.numpy import load_file, save_file

    target.mkdir()
    config = json.loads((source / "config.json").read_text())
    config.pop("torch_dtype", None)
    (target / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    shutil.copy(source / "generation_config.json", target)
    tensors = {}
    for file in sorted(source.glob("*.safetensors")):
        tensors.update(load_file(file))
    save_file(
        {name: np.ascontiguousarray(change(name, values.astype(np.float32))) for name, values in tensors.items()},
        target / "model.safetensors",
    )
    return target


def is_quantised(name: str, tied: bool) -> bool:
    """Every projection and the output matrix; the embedding only where one table serves for both."""
    return name.endswith(("_proj.weight", "lm_head.weight")) or (tied and name.endswith("embed_tokens.weight"))


@pytest.mark.parametrize("group_size", [32, 128, 0])
@pytest.mark.parametrize("model_case", [case for case in CASES if not case.is_gguf], ids=lambda case: case.name)
def test_w8a16_equals_dequantised_weights(
    model_case: ReferenceCase, group_size: int, platform: tuple[str, str], tmp_path: Path
) -> None:
    # The error of the kernels alone: both sides have the same weights, which int8 and a scale a group hold exactly.
    tied = json.loads((model_case.path / "config.json").read_text())["tie_word_embeddings"]

    def dequantised(name: str, values: NDArray) -> NDArray:
        if not is_quantised(name, tied):
            return values
        return dequantize(quantize(values, group_size), group_size).astype(np.float32)

    copy = with_weights(model_case.path, tmp_path / "dequantised", dequantised)
    token_ids = model_case.load().token_ids.tolist()
    with load(copy, *platform) as model:
        expected = model.logits(token_ids)
    with load(copy, *platform, quantization=QuantizationType.W8A16, group_size=group_size) as model:
        assert model.config.quantization is QuantizationType.W8A16
        assert model.config.group_size == group_size
        logits = model.logits(token_ids)
    assert_logits_close(logits, expected, platform[1])


@pytest.mark.parametrize("model_case", [case("llama2"), case("smollm2")], ids=lambda case: case.name)
def test_w8a16_rounds_the_weights(model_case: ReferenceCase) -> None:
    # Without this, the test above would also pass for a loader that ignores `quantization`.
    token_ids = model_case.load().token_ids.tolist()
    with load(model_case.path) as model:
        exact = model.logits(token_ids)
    distances = []
    for group_size in (32, 0):
        with load(model_case.path, quantization=QuantizationType.W8A16, group_size=group_size) as model:
            distances.append(relative_distance(model.logits(token_ids), exact))
    assert 10 * MODEL_LOGITS_NORM["float32"] < distances[0] < distances[1]


@pytest.mark.parametrize("model_case", [case for case in CASES if not case.is_gguf], ids=lambda case: case.name)
def test_w8a16_is_no_worse_than_with_absmax_scales(model_case: ReferenceCase, tmp_path: Path) -> None:
    # The loader searches scales that make the error smaller, on an estimate of how the inputs count; on a model of a
    # few weights chance may have it the other way, but scales in the wrong place would be several times worse.
    tied = json.loads((model_case.path / "config.json").read_text())["tie_word_embeddings"]

    def dequantised(name: str, values: NDArray) -> NDArray:
        return dequantize(quantize(values, 32), 32).astype(np.float32) if is_quantised(name, tied) else values

    copy = with_weights(model_case.path, tmp_path / "dequantised", dequantised)
    token_ids = model_case.load().token_ids.tolist()
    logits = []
    for path, quantization in (
        (model_case.path, QuantizationType.NONE),
        (model_case.path, QuantizationType.W8A16),
        (copy, QuantizationType.NONE),
    ):
        with load(path, quantization=quantization, group_size=32) as model:
            logits.append(model.logits(token_ids))
    exact, searched, absmax = logits
    assert relative_distance(searched, exact) <= 1.2 * relative_distance(absmax, exact)


def changed_config(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of a Hugging Face checkpoint with changed keys in config.json."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"}, "Gemma2ForCausalLM"),
        ({"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}, "MixtralForCausalLM"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0}}, "longrope"),
        ({"attn_logit_softcapping": 30.0}, "attn_logit_softcapping"),
    ],
    ids=["gemma2", "mixtral", "gelu", "longrope", "softcapping"],
)
def test_unknown_computations_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    path = changed_config(case("llama31").path, tmp_path / "model", **changes)
    with pytest.raises(CheckpointError, match=named):
        tinyllm.load(path, device="cpu")


def test_unknown_architecture_lists_what_works(tmp_path: Path) -> None:
    path = changed_config(case("llama31").path, tmp_path / "model", architectures=["Gemma2ForCausalLM"])
    with pytest.raises(CheckpointError) as error:
        tinyllm.load(path, device="cpu")
    for name in ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"):
        assert name in str(error.value)


def test_unknown_gguf_architecture_is_refused(tmp_path: Path) -> None:
    # Five letters like "llama", so that every length in the file stays right.
    path = tmp_path / "model.gguf"
    path.write_bytes(case("gguf_llama_f16").path.read_bytes().replace(b"llama", b"gemma"))
    with pytest.raises(CheckpointError, match="gemma") as error:
        tinyllm.load(path, device="cpu")
    for name in ("llama", "qwen2", "qwen3"):
        assert name in str(error.value)
