"""`tinyllm demo`: fetch a small model and let it answer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .. import demo
from .console import say
from .options import add_model_options, add_sampling_options, generation_settings, load_model
from .output import print_stats, write_stream

if TYPE_CHECKING:
    import argparse


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="fetch SmolLM2-135M-Instruct (98 MB, once) and stream an answer",
        description="Fetches SmolLM2-135M-Instruct (98 MB, once, into TINYLLM_CACHE or ~/.cache/tinyllm) and streams "
        "an answer, then tokens per second and memory.",
    )
    parser.add_argument("prompt", nargs="?", default=demo.PROMPT, help="default: %(default)r")
    add_model_options(parser)
    add_sampling_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    settings = generation_settings(args)
    path = demo.fetch(progress=sys.stderr.isatty())
    with load_model(args, str(path)) as model:
        print(f"> {args.prompt}", flush=True)
        _, stats = write_stream(model.chat([{"role": "user", "content": args.prompt}], stream=True, **settings))
        print_stats(stats)
        say(f"\n{model.memory()}")
    return 0
