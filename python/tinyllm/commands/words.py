"""Messages of the Python API, in the words of the command line: "--top-k" for "GenerationConfig.top_k"."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import CheckpointError

if TYPE_CHECKING:
    import argparse

_CLASS_FIELD = re.compile(r"\b(?:GenerationConfig|KVCacheConfig|ModelConfig)\.(\w+)")


def in_flags(error: Exception, parser: argparse.ArgumentParser | None) -> str:
    """The message of an error with the flags of `parser` in place of the arguments that they set.

    A parser may name arguments that its flags spell differently: `set_defaults(flags={"max_seq_len": "--context"})`.
    What a checkpoint says about its own keys stays as it is: they have the names of ours, but no flag sets them.
    """
    if parser is None or isinstance(error, CheckpointError):
        return str(error)
    flags = {action.dest: action.option_strings[-1] for action in parser._actions if action.option_strings}
    flags |= parser.get_default("flags") or {}
    message = _CLASS_FIELD.sub(lambda found: flags.get(found[1], found[1]), str(error))
    # Without a class in front only names that are no words, and that are not part of a path.
    names = [name for name in flags if "_" in name]
    field = re.compile(rf"(?<![\w./-])({'|'.join(names)})(?![\w./-])")
    return field.sub(lambda found: flags[found[1]], message) if names else message
