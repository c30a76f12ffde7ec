"""`tinyllm chat MODEL`: a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .options import MODEL_HELP, add_model_options, add_sampling_options, generation_settings, load_model
from .output import print_stats, write_stream

if TYPE_CHECKING:
    import argparse

    from ..config import GenerationSettings
    from ..model import Model

_HELP = "Commands: /reset forgets the conversation, /exit (or Ctrl-D) ends, /help shows this. Ctrl-C stops an answer."


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("chat", help="talk to a model", description=f"A conversation with history. {_HELP}")
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("--system", metavar="TEXT", help="system message at the beginning of the conversation")
    parser.add_argument("--stats", action="store_true", help="print speed and memory after each answer")
    add_model_options(parser)
    add_sampling_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    settings = generation_settings(args)
    with load_model(args, args.model) as model:
        if sys.stdin.isatty():
            print(_HELP, file=sys.stderr)
        _converse(model, args, settings)
    return 0


def _converse(model: Model, args: argparse.Namespace, settings: GenerationSettings) -> None:
    beginning = [{"role": "system", "content": args.system}] if args.system else []
    history = list(beginning)
    while (line := _read_line()) is not None:
        if line == "/exit":
            return
        if line == "/reset":
            history = list(beginning)
        elif line == "/help":
            print(_HELP, file=sys.stderr)
        elif line.startswith("/"):
            print(f"unknown command {line}. {_HELP}", file=sys.stderr)
        elif line:
            history = _answer(model, history, line, args.stats, settings)


def _read_line() -> str | None:
    """The next line without surrounding space; None at the end of the input."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        if sys.stdin.isatty():
            print()
        return None


def _answer(
    model: Model, history: list[dict[str, str]], text: str, show_stats: bool, settings: GenerationSettings
) -> list[dict[str, str]]:
    """Streams one answer; returns the history with it, or the old one where the answer failed or was stopped."""
    messages = [*history, {"role": "user", "content": text}]
    try:
        answer, stats = write_stream(model.chat(messages, stream=True, **settings))
    except KeyboardInterrupt:
        print("(stopped; this exchange is not kept)", file=sys.stderr)
        return history
    except ValueError as error:
        # Usually a conversation that no longer fits; the user can /reset and go on.
        print(f"tinyllm: error: {error}", file=sys.stderr)
        return history
    if show_stats:
        print_stats(stats)
    return [*messages, {"role": "assistant", "content": answer}]
