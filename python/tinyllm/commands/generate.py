"""`tinyllm generate MODEL PROMPT`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .console import json_text, read_all
from .options import MODEL_HELP, add_model_options, add_sampling_options, generation_settings, load_model
from .output import print_stats, write_stream

if TYPE_CHECKING:
    import argparse


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "generate", help="continue a text", description="Continues a text and streams the result to standard output."
    )
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("prompt", help="the text to continue; - reads it from standard input")
    parser.add_argument("--json", action="store_true", help="print one JSON object with text, token ids and statistics")
    parser.add_argument("--logprobs", action="store_true", help="with --json: log-probability of each token")
    parser.add_argument("--stats", action="store_true", help="print speed and memory on standard error")
    add_model_options(parser)
    add_sampling_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.logprobs and not args.json:
        raise ConfigError("--logprobs needs --json: the streamed text has no place for them")
    settings = generation_settings(args)
    settings["logprobs"] = args.logprobs
    prompt = read_all() if args.prompt == "-" else args.prompt
    with load_model(args, args.model) as model:
        if args.json:
            result = model.generate(prompt, **settings)
            print(json_text(result.to_dict()))
            return 0
        _, stats = write_stream(model.stream(prompt, **settings))
        if args.stats:
            print_stats(stats)
    return 0
