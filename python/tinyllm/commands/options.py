"""Command-line options that several commands share, and what they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ..config import GenerationConfig, GenerationSettings, KVCacheConfig, QuantizationType
from ..loading import load

if TYPE_CHECKING:
    import argparse

    from ..model import Model

MODEL_HELP = "Hugging Face directory, GGUF file, or owner/name on the Hugging Face Hub"

_SETTINGS = (
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
    "ignore_eos",
)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options of everything that loads a model."""
    group = parser.add_argument_group("model")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    group.add_argument(
        "--quantization",
        default=QuantizationType.W8A16.value,
        choices=[member.value for member in QuantizationType],
        help="w8a16: int8 weights; none: 16-bit weights (default: %(default)s)",
    )
    group.add_argument(
        "--group-size",
        type=int,
        default=128,
        metavar="N",
        help="inputs that share a scale: 32, 64, 128, 256, or 0 for one group a row (default: %(default)s)",
    )
    group.add_argument(
        "--dtype", default="auto", help="activations: float16, bfloat16, float32 (CPU), or auto (default: %(default)s)"
    )
    group.add_argument(
        "--max-seq-len", type=int, metavar="N", help="context in tokens (default: 2048, or the model's if shorter)"
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Options of everything that generates; what is not given is the checkpoint's recommendation, else greedy."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="default: %(default)s")
    group.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    group.add_argument("--top-k", type=int, metavar="K", help="keep the K most likely tokens; 0 is off")
    group.add_argument("--top-p", type=float, metavar="P", help="keep the likeliest tokens that reach probability P")
    group.add_argument("--min-p", type=float, metavar="P", help="drop tokens below P times the likeliest one")
    group.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1 discourages repetition")
    group.add_argument("--seed", type=int, help="makes sampling repeatable")
    group.add_argument("--stop", action="append", metavar="TEXT", help="end before this text; may be given again")
    group.add_argument("--ignore-eos", action="store_true", default=None, help="go on past end tokens")


def load_model(args: argparse.Namespace, path: str) -> Model:
    """The model that the options ask for."""
    return load(
        path,
        device=args.device,
        quantization=args.quantization,
        group_size=args.group_size,
        kv_cache=None if args.max_seq_len is None else KVCacheConfig(max_seq_len=args.max_seq_len),
        dtype=args.dtype,
    )


def generation_settings(args: argparse.Namespace) -> GenerationSettings:
    """Keyword arguments for `generate`: only what the user gave, and a limit."""
    given = {name: getattr(args, name) for name in _SETTINGS if getattr(args, name) is not None}
    GenerationConfig(**given)  # a wrong value is reported before a model is loaded
    return cast("GenerationSettings", given)
