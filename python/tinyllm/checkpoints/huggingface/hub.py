"""Fetching a model from the Hugging Face Hub into its local cache."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import CheckpointError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# What a Hugging Face checkpoint needs; repositories often hold the weights a second time in other formats.
_NEEDED_FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
]


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form owner/model of a repository on the Hub."""
    return _HUB_NAME.fullmatch(name) is not None and not name.endswith((".gguf", ".safetensors"))


def fetch(name: str) -> Path:
    """Directory with the files of the Hub repository `name`, downloaded where the cache does not have them.

    CheckpointError, with what to do, if that is impossible.
    """
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_NEEDED_FILES))
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name}: its owner gives access on request: accept the terms at https://huggingface.co/{name} and log in "
            f"with `hf auth login` ({error})"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name}: neither a local path nor a public model on the Hugging Face Hub; check the spelling, or log in "
            f"with `hf auth login` if the model is private ({error})"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        # No connection, one that is cut or stalls, offline mode, full disk, invalid name: which classes stand for them
        # depends on the package's version, which has used three libraries for HTTP.
        raise CheckpointError(
            f"{name}: no such file or directory, and the Hugging Face Hub could not deliver a model of that name: "
            f"{type(error).__name__}: {error}\n"
            f"Without a connection, download the model on another machine (`hf download {name}`), copy its directory "
            "here and pass the path, or set HF_HOME to a cache that has it"
        ) from error
