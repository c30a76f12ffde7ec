"""Text in, text out: results, streams, stop strings, chat. With the tokenizer of a small random model."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

import tinyllm
from reference import DATA
from tinyllm import KVCacheConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL = DATA / "smollm2"


@pytest.fixture(scope="module")
def model() -> Iterator[tinyllm.Model]:
    cache = KVCacheConfig(max_batch_size=2, max_seq_len=256)
    with tinyllm.load(MODEL, device="cpu", kv_cache=cache) as loaded:
        yield loaded


def test_a_result_is_consistent(model: tinyllm.Model) -> None:
    result = model.generate("the cat", max_new_tokens=20, ignore_eos=True)
    assert result.finish_reason == "length"
    assert len(result.token_ids) == result.stats.generated_tokens == 20
    assert result.stats.prompt_tokens == len(model.tokenizer.encode("the cat"))
    decoder = model.tokenizer.stream_decoder(continues_text=True)
    assert result.text == "".join(map(decoder.push, result.token_ids)) + decoder.flush()
    assert result.stats.ttft_ms > 0
    assert result.stats.tpot_ms > 0
    assert result.stats.decode_tps == pytest.approx(1000 / result.stats.tpot_ms)
    assert result.stats.peak_memory_bytes == model.memory().peak


def test_a_stream_is_the_result_in_pieces(model: tinyllm.Model) -> None:
    settings = {"max_new_tokens": 40, "temperature": 1.0, "seed": 4, "logprobs": True}
    result = model.generate("the cat", **settings)
    pieces = list(model.stream("the cat", **settings))
    assert "".join(piece.text for piece in pieces) == result.text
    assert [piece.token_id for piece in pieces] == result.token_ids
    assert [piece.logprob for piece in pieces] == result.logprobs
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == result.finish_reason
    assert pieces[-1].stats.generated_tokens == len(pieces)


def test_stop_strings_end_the_text_across_tokens(model: tinyllm.Model) -> None:
    whole = model.generate("the cat", max_new_tokens=40, ignore_eos=True).text
    middle = len(whole) // 2
    stop = whole[middle : middle + 5]
    result = model.generate("the cat", max_new_tokens=40, ignore_eos=True, stop=[stop, "never there"])
    assert result.text == whole[: whole.find(stop)]
    assert result.finish_reason == "stop"
    streamed = "".join(p.text for p in model.stream("the cat", max_new_tokens=40, ignore_eos=True, stop=stop))
    assert streamed == result.text
    assert model.memory().kv_pages_free == model.memory().kv_pages


def test_an_end_token_ends_the_text(model: tinyllm.Model, tmp_path: Path) -> None:
    tokens = model.generate("the cat", max_new_tokens=30, ignore_eos=True).token_ids
    end = tokens[10]
    count = tokens.index(end) + 1
    shutil.copytree(MODEL, tmp_path / "ending")
    (tmp_path / "ending" / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    with tinyllm.load(tmp_path / "ending", device="cpu") as ending:
        assert ending.eos_token_ids == (end,)
        result = ending.generate("the cat", max_new_tokens=30)
    assert result.finish_reason == "stop"
    assert result.token_ids == tokens[:count]
    decoder = model.tokenizer.stream_decoder(continues_text=True)
    assert result.text == "".join(map(decoder.push, tokens[: count - 1])) + decoder.flush()


def test_a_list_of_prompts_gives_a_list_of_results(model: tinyllm.Model) -> None:
    texts = ["a", "the cat sat", "the"]
    results = model.generate(texts, max_new_tokens=5)
    assert [r.token_ids for r in results] == [model.generate(t, max_new_tokens=5).token_ids for t in texts]
    ids = [model.tokenizer.encode(text) for text in texts]
    assert [r.token_ids for r in model.generate(ids, max_new_tokens=5)] == [r.token_ids for r in results]


def test_load_checks_its_arguments() -> None:
    for arguments, words in (
        ({"device": "tpu"}, "device must be"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"group_size": 48}, "group_size"),
        ({"quantization": "int4"}, "quantization"),
        ({"dtype": "float8"}, "dtype"),
        ({"kv_cache": 2048}, "KVCacheConfig"),
        ({"kv_cache": KVCacheConfig(max_batch_size=4, max_seq_len=256, num_pages=2)}, "num_pages = 2"),
    ):
        with pytest.raises(ValueError, match=words):
            tinyllm.load(MODEL, **arguments)


def test_devices_lists_the_cpu_first() -> None:
    cpu = tinyllm.devices()[0]
    assert (cpu.device, cpu.kind, cpu.usable, cpu.compute_capability) == ("cpu", "cpu", True, None)
    assert cpu.num_units >= 1
    assert 0 < cpu.free <= cpu.total


@pytest.mark.parametrize("stream", [False, True])
def test_the_real_model_answers(smollm2_gguf: str, device: str, stream: bool) -> None:
    with tinyllm.load(smollm2_gguf, device=device) as real:
        messages = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
        answer = real.chat(messages, stream=stream, max_new_tokens=24, temperature=0.0)
        text = "".join(piece.text for piece in answer) if stream else answer.text
        assert "Paris" in text
        assert "<|im_end|>" not in text
