"""A short generation through Python on the GPU, to be run under compute-sanitizer by tools/gpu_check.sh."""

from __future__ import annotations

from pathlib import Path

import tinyllm

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"


def main() -> None:
    """Greedy and sampled requests in one batch, prompt logits, a cancelled stream, then close."""
    cache = tinyllm.KVCacheConfig(max_batch_size=3, max_seq_len=160)
    with tinyllm.load(DATA / "smollm2", device="cuda", kv_cache=cache) as model:
        prompts = [[5, 6, 7], list(range(70)), [9]]
        model.generate(prompts, max_new_tokens=4, ignore_eos=True)
        sampled = model.generate(
            prompts, max_new_tokens=3, temperature=1.0, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.1, seed=1
        )
        model.logits(range(80))
        stream = model.stream([1, 2, 3], ignore_eos=True)
        next(stream)
        stream.close()
        print(sampled[0].token_ids)


if __name__ == "__main__":
    main()
