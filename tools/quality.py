"""Compare tinyllm's logits with transformers in float32 on the same checkpoint: what int8 weights cost in accuracy.

    python tools/quality.py SmolLM2-135M-Instruct.Q4_1.gguf

The reference is transformers' own reader of the file (a GGUF file is dequantised to float32), so neither its weights
nor its arithmetic come from tinyllm. Every position of the passages in quality_texts.py is compared:

    KL    Kullback-Leibler divergence from the reference's distribution of the next token, in nats
    top   share of positions where both have the same most likely token
    NLL   mean negative log-likelihood of the passage's own next token, in nats: tinyllm's minus the reference's

16-bit weights are measured beside W8A16, to show what is due to 16-bit activations alone. Exits with 1 if W8A16 misses
one of the limits on the English passages: the model it is made for speaks no other language, and where a model guesses,
any rounding changes the guess. The row "all" has every passage.

Needs torch, transformers and accelerate (which transformers asks for to read GGUF files).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import tinyllm
from quality_texts import CHAT, OTHER_LANGUAGES, PASSAGES
from tinyllm import KVCacheConfig, QuantizationType

MAX_MEAN_KL = 0.003
MIN_SAME_TOP = 0.97
MAX_NLL_DIFFERENCE = 0.01


@dataclass(frozen=True)
class Comparison:
    """Measures of one passage or of all. KL and NLL in nats; same_top is a share of 1."""

    positions: int
    mean_kl: float
    max_kl: float
    same_top: float
    reference_nll: float
    nll_difference: float

    def missed_limits(self) -> list[str]:
        """The limits that these measures do not keep, in words."""
        checks = (
            (self.mean_kl <= MAX_MEAN_KL, f"mean KL {self.mean_kl:.5f} is above {MAX_MEAN_KL}"),
            (self.same_top >= MIN_SAME_TOP, f"same top token {self.same_top:.3%} is below {MIN_SAME_TOP:.0%}"),
            (
                abs(self.nll_difference) <= MAX_NLL_DIFFERENCE,
                f"NLL difference {self.nll_difference:+.4f} is larger than {MAX_NLL_DIFFERENCE}",
            ),
        )
        return [message for kept, message in checks if not kept]


@dataclass(frozen=True)
class PositionMeasures:
    """Arrays over the positions of one passage; nll arrays are one shorter, as the last token has no next one."""

    kl: np.ndarray
    same_top: np.ndarray
    reference_nll: np.ndarray
    nll: np.ndarray


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def measure(reference: np.ndarray, logits: np.ndarray, token_ids: list[int]) -> PositionMeasures:
    """Compare two arrays of logits [n, vocab] for the sequence token_ids [n]."""
    want, got = _log_softmax(reference), _log_softmax(logits)
    rows, next_ids = np.arange(len(token_ids) - 1), token_ids[1:]
    return PositionMeasures(
        kl=(np.exp(want) * (want - got)).sum(axis=-1),
        same_top=want.argmax(axis=-1) == got.argmax(axis=-1),
        reference_nll=-want[rows, next_ids],
        nll=-got[rows, next_ids],
    )


def summarise(measures: list[PositionMeasures]) -> Comparison:
    """Means over all positions, so that a long passage counts for more than a short one."""
    kl = np.concatenate([one.kl for one in measures])
    reference_nll = np.concatenate([one.reference_nll for one in measures])
    nll = np.concatenate([one.nll for one in measures])
    return Comparison(
        positions=len(kl),
        mean_kl=float(kl.mean()),
        max_kl=float(kl.max()),
        same_top=float(np.concatenate([one.same_top for one in measures]).mean()),
        reference_nll=float(reference_nll.mean()),
        nll_difference=float((nll - reference_nll).mean()),
    )


def reference_logits(model: Path, max_tokens: int | None) -> dict[str, tuple[list[int], np.ndarray]]:
    """Token ids and transformers' float32 logits of every passage, each cut to max_tokens tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    directory, source = (model, {}) if model.is_dir() else (model.parent, {"gguf_file": model.name})
    tokenizer = AutoTokenizer.from_pretrained(directory, **source)
    oracle = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", **source
    ).eval()
    sequences = {name: tokenizer(text)["input_ids"] for name, text in PASSAGES.items()}
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(CHAT, tokenize=False)
        sequences["chat"] = tokenizer(text, add_special_tokens=False)["input_ids"]
    result = {}
    with torch.inference_mode():
        for name, ids in sequences.items():
            kept = ids[:max_tokens]
            result[name] = (kept, oracle(torch.tensor([kept]), use_cache=False).logits[0].numpy())
    return result


def compare(
    arguments: argparse.Namespace,
    quantization: QuantizationType,
    reference: dict[str, tuple[list[int], np.ndarray]],
) -> tuple[str, dict[str, Comparison]]:
    """Run every passage through tinyllm.

    Returns the activation type and the measures by passage, then of "all" and of the "English" ones.
    """
    longest = max(len(ids) for ids, _ in reference.values())
    measures = {}
    with tinyllm.load(
        arguments.model,
        device=arguments.device,
        quantization=quantization,
        group_size=arguments.group_size,
        kv_cache=KVCacheConfig(max_batch_size=1, max_seq_len=longest),
        dtype=arguments.dtype,
    ) as model:
        for name, (token_ids, logits) in reference.items():
            measures[name] = measure(logits, model.logits(token_ids), token_ids)
        dtype = model.config.dtype
    by_passage = {name: summarise([one]) for name, one in measures.items()}
    english = [one for name, one in measures.items() if name not in OTHER_LANGUAGES]
    return dtype, {**by_passage, "all": summarise(list(measures.values())), "English": summarise(english)}


def print_table(title: str, rows: dict[str, Comparison]) -> None:
    """A Markdown table, ready for docs/quality.md."""
    print(f"\n{title}\n")
    print("| passage | positions | mean KL | max KL | same top token | reference NLL | NLL difference |")
    print("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        print(
            f"| {name} | {row.positions} | {row.mean_kl:.5f} | {row.max_kl:.3f} | {row.same_top:.2%} "
            f"| {row.reference_nll:.3f} | {row.nll_difference:+.4f} |"
        )


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="GGUF file or Hugging Face directory")
    parser.add_argument("--group-size", type=int, default=128, help="weights that share a scale; 0: a whole row")
    parser.add_argument("--tokens", type=int, help="use only the first TOKENS tokens of each passage")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="activation type (default: the checkpoint's own)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of tables")
    arguments = parser.parse_args()
    if not arguments.model.exists():
        parser.error(f"{arguments.model}: no such file or directory")
    if arguments.tokens is not None and arguments.tokens < 2:
        parser.error(f"--tokens must be at least 2, got {arguments.tokens}")

    reference = reference_logits(arguments.model, arguments.tokens)
    dtype, w8a16 = compare(arguments, QuantizationType.W8A16, reference)
    _, unquantised = compare(arguments, QuantizationType.NONE, reference)
    missed = w8a16["English"].missed_limits()
    if arguments.json:
        results = {
            "model": arguments.model.name,
            "dtype": dtype,
            "group_size": arguments.group_size,
            "w8a16": {name: asdict(row) for name, row in w8a16.items()},
            "none": {name: asdict(row) for name, row in unquantised.items()},
            "missed_limits": missed,
        }
        print(json.dumps(results, indent=2))
    else:
        group = f"group size {arguments.group_size}" if arguments.group_size else "one group a row"
        print_table(f"W8A16, {group}, {dtype} activations", w8a16)
        print_table(f"16-bit weights, {dtype} activations", unquantised)
        print("\nW8A16 " + ("misses: " + "; ".join(missed) if missed else "keeps all limits"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
