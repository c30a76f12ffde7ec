"""`tinyllm chat MODEL`: a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .console import read_line, say
from .options import MODEL_HELP, add_model_options, add_sampling_options, generation_settings, load_model
from .output import print_stats, write_stream
from .words import in_flags

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
        if sys.stdin is not None and sys.stdin.isatty():
            say(_HELP)
        conversation = _Conversation(model, args, settings)
        while (line := read_line("> ")) is not None and line != "/exit":
            conversation.take(line)
    # As any other program that was asked for something and could do none of it.
    return 1 if conversation.failures and not conversation.answers else 0


class _Conversation:
    def __init__(self, model: Model, args: argparse.Namespace, settings: GenerationSettings) -> None:
        self._model = model
        self._show_stats = args.stats
        self._settings = settings
        self._parser = args.parser
        self._beginning = [{"role": "system", "content": args.system}] if args.system else []
        self._history = list(self._beginning)
        self.answers = 0
        self.failures = 0

    def take(self, line: str) -> None:
        """Carries out one line of input."""
        if line == "/reset":
            self._history = list(self._beginning)
        elif line == "/help":
            say(_HELP)
        elif line.startswith("/"):
            say(f"unknown command {line}. {_HELP}")
        elif line:
            self._answer(line)

    def _answer(self, text: str) -> None:
        """Streams one answer; an exchange that fails or is stopped leaves the history as it was."""
        messages = [*self._history, {"role": "user", "content": text}]
        try:
            answer, stats = write_stream(self._model.chat(messages, stream=True, **self._settings))
        except KeyboardInterrupt:
            say("(stopped; this exchange is not kept)")
            return
        except (ValueError, CheckpointError) as error:
            # Usually a conversation that no longer fits; the user can /reset and go on.
            say(f"tinyllm: error: {in_flags(error, self._parser)}")
            self.failures += 1
            return
        if self._show_stats:
            print_stats(stats)
        self._history = [*messages, {"role": "assistant", "content": answer}]
        self.answers += 1
