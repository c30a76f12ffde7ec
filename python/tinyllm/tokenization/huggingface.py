"""The tokenizer of a Hugging Face checkpoint directory.

Which file says what, and which wins, follows transformers 5 (`PreTrainedTokenizerBase._from_pretrained`):
tokenizer.json is the tokenizer, its post-processor decides about BOS and EOS; tokenizer_config.json (or, in older
checkpoints, special_tokens_map.json) names the special tokens; template files win over tokenizer_config.json.
"""

from __future__ import annotations

import base64
import binascii
import json
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .backend_errors import backend_errors
from .charsmap import charsmap_error
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    import tokenizers

_SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA_TOKENS_KEYS = ("additional_special_tokens", "extra_special_tokens")

_HOW_TO_MAKE_TOKENIZER_JSON = (
    "make it with transformers: AutoTokenizer.from_pretrained({directory!r}).save_pretrained({directory!r})"
)


def load_huggingface_tokenizer(directory: Path) -> Tokenizer:
    """Read tokenizer.json and what belongs to it from a Hugging Face checkpoint directory.

    Raises:
        CheckpointError: a file is missing, damaged or asks for something unsupported.
    """
    tokenizer_file = directory / "tokenizer.json"
    config_file = directory / "tokenizer_config.json"
    backend = _read_backend(tokenizer_file)
    config = _read_json_object(config_file)
    named = config
    if "added_tokens_decoder" not in config:
        # Older checkpoints keep their special tokens in a file of their own.
        named = {**config, **_read_json_object(directory / "special_tokens_map.json")}

    special_tokens = {
        name: _token_text(named[name], name, config_file)
        for name in _SPECIAL_TOKEN_NAMES
        if named.get(name) is not None
    }
    extra_tokens = [
        _token_text(value, key, config_file) for key in _EXTRA_TOKENS_KEYS for value in _listed(named, key, config_file)
    ]
    with backend_errors(f"{tokenizer_file}: its tokens cannot be read"):
        _add_declared_tokens(backend, config.get("added_tokens_decoder") or {}, config_file)
        _add_special_tokens(backend, [*special_tokens.values(), *extra_tokens])
        # Whether the texts of special tokens in a text are only text.
        backend.encode_special_tokens = _flag(config, "split_special_tokens", config_file)
        eos_token_id = backend.token_to_id(special_tokens["eos_token"]) if "eos_token" in special_tokens else None
    if eos_token_id is None and "eos_token" in special_tokens:
        warnings.warn(
            f"{config_file}: eos_token {special_tokens['eos_token']!r} is not a token of {tokenizer_file}, so no answer"
            " can end with it",
            stacklevel=2,
        )
    return Tokenizer(
        backend,
        origin=tokenizer_file,
        special_tokens=special_tokens,
        eos_token_ids=() if eos_token_id is None else (eos_token_id,),
        chat_templates=_read_chat_templates(directory, config),
    )


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend

    if not path.is_file():
        others = [name for name in ("tokenizer.model", "vocab.json", "tekken.json") if (path.parent / name).is_file()]
        found = f" (there is {', '.join(others)})" if others else ""
        how = _HOW_TO_MAKE_TOKENIZER_JSON.format(directory=str(path.parent))
        raise CheckpointError(f"{path} is missing{found}; {how}")
    text = _read_text(path)
    _check_charsmaps(text, path)
    # tokenizers raises plain Exception for every kind of damage.
    with backend_errors(f"{path} cannot be read by tokenizers; download it again"):
        backend = Backend.from_str(text)
    # Both belong to training and batching; left on, they would silently shorten or pad a prompt.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _check_charsmaps(text: str, path: Path) -> None:
    """CheckpointError for a damaged map of SentencePiece's (normalizer "Precompiled"), which tokenizers would trust."""
    if '"precompiled_charsmap"' not in text and "\\u00" not in text:  # JSON may write any letter as \\u00..
        return
    for value in _values_of("precompiled_charsmap", _parse_json(text, path)):
        try:
            error = charsmap_error(base64.b64decode(value, validate=True))
        except (TypeError, ValueError, binascii.Error) as reason:
            error = f"expected base64, found {value!r:.80} ({reason})"
        if error is not None:
            raise CheckpointError(f"{path}: precompiled_charsmap is damaged: {error}; download it again")


def _values_of(key: str, tree: Any) -> Iterator[Any]:
    """Every value of `key` in a JSON value, however deep."""
    open_nodes = [tree]
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, dict):
            if key in node:
                yield node[key]
            open_nodes += node.values()
        elif isinstance(node, list):
            open_nodes += node


def _add_declared_tokens(backend: tokenizers.Tokenizer, declared: Any, config_file: Path) -> None:
    """Adds the tokens of added_tokens_decoder (id -> text and flags); normally tokenizer.json has them already."""
    from tokenizers import AddedToken

    try:
        tokens = sorted(
            (
                (int(key), _token_text(fields, "added_tokens_decoder", config_file), fields)
                for key, fields in declared.items()
            ),
            key=lambda entry: entry[0],
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f'{config_file}: added_tokens_decoder must map token ids to objects with "content": {error!r}'
        ) from error
    for token_id, text, value in tokens:
        fields = value if isinstance(value, Mapping) else {}
        special = bool(fields.get("special"))
        flags = {name: bool(fields.get(name)) for name in ("single_word", "lstrip", "rstrip")}
        normalized = bool(fields.get("normalized", not special))
        backend.add_tokens([AddedToken(text, special=special, normalized=normalized, **flags)])
        found = backend.token_to_id(text)
        if found != token_id:
            raise CheckpointError(
                f"{config_file}: added_tokens_decoder gives {text!r} the id {token_id}, but with tokenizer.json it has"
                f" the id {found}; the two files are not of one checkpoint"
            )


def _add_special_tokens(backend: tokenizers.Tokenizer, texts: list[str]) -> None:
    """Makes `backend` treat as special tokens what the configuration names and tokenizer.json has as ordinary tokens.

    A token that tokenizer.json lists among its added tokens stays as it says there, special or not.
    """
    from tokenizers import AddedToken

    listed = {token.content for token in backend.get_added_tokens_decoder().values()}
    backend.add_special_tokens(
        [
            AddedToken(text, normalized=False, special=True)
            for text in texts
            # A text without an id stays out: its new id would lie past the model's vocabulary.
            if text not in listed and backend.token_to_id(text) is not None
        ]
    )


def _token_text(value: Any, name: str, config_file: Path) -> str:
    """A special token is written as a string or as an object with "content"."""
    if isinstance(value, Mapping):
        value = value.get("content")
    if not isinstance(value, str):
        raise CheckpointError(f'{config_file}: {name} must be a string or have a string "content", found {value!r:.80}')
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise CheckpointError(f"{config_file}: {name} must be valid Unicode, found the lone surrogate in {value!r:.80}")
    return value


def _flag(config: Mapping[str, Any], key: str, config_file: Path) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{config_file}: {key} must be true or false, found {value!r:.80}")
    return bool(value)


def _listed(named: Mapping[str, Any], key: str, config_file: Path) -> list[Any]:
    """Extra special tokens are written as a list or, by name, as an object."""
    value = named.get(key)
    value = list(value.values()) if isinstance(value, Mapping) else [] if value is None else value
    if not isinstance(value, list):
        raise CheckpointError(f"{config_file}: {key} must be a list or an object, found {value!r:.80}")
    return value


def _read_chat_templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name: those in files, or else those in tokenizer_config.json."""
    from_files = {path.stem: _read_text(path) for path in sorted(directory.glob("additional_chat_templates/*.jinja"))}
    if (directory / "chat_template.jinja").is_file():
        from_files["default"] = _read_text(directory / "chat_template.jinja")
    if from_files:
        return from_files
    value = config.get("chat_template")
    if value is None:
        return {}
    templates = {"default": value} if isinstance(value, str) else {}
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        templates = {entry.get("name"): entry.get("template") for entry in value}
    if not templates or not all(isinstance(text, str) for pair in templates.items() for text in pair):
        raise CheckpointError(
            f"{directory / 'tokenizer_config.json'}: chat_template must be a string or a list of dicts with 'name' and"
            f" 'template', found {value!r:.80}"
        )
    return templates


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} when there is no such file."""
    if not path.is_file():
        return {}
    value = _parse_json(_read_text(path), path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, found {type(value).__name__}")
    return value


def _parse_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # malformed, or nested beyond reason
        raise CheckpointError(f"{path} is not valid JSON: {error}; download it again") from error
