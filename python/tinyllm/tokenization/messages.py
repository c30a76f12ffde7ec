"""The messages of a conversation: checked, copied into plain JSON data, and spelled as chat templates expect them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MAX_DEPTH = 100  # of lists and dicts inside each other
_MAX_VALUES = 1_000_000  # in all messages together

# Names under which programs hand over what a model thought; templates read the first, some the second.
_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A copy of the messages made of plain JSON types.

    Keys of a message whose value is None are left out, and reasoning is there under the names that templates read, as
    transformers does it. Content given as a list of parts stays a list; see `join_text_parts`.

    Raises:
        ValueError: naming the message (counted from 0), the key and what is wrong with it.
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise ValueError(
            f'messages must be a list like [{{"role": "user", "content": "Hello"}}], got {type(messages).__name__}'
        )
    if not messages:
        raise ValueError('messages is empty; give at least [{"role": "user", "content": "..."}]')
    copier = _Copier()
    return [_check_message(message, f"messages[{index}]", copier) for index, message in enumerate(messages)]


def plain_data(value: Any, where: str) -> Any:
    """A copy made of exact JSON types, so that a template gets no object with methods of its own. ValueError else."""
    return _Copier().copy(value, where)


def join_text_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with each list of text parts joined to one string, for templates that know strings only."""
    return [
        message | {"content": "\n".join(part["text"] for part in message["content"])}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def map_strings(messages: list[dict[str, Any]], replace: Any) -> list[dict[str, Any]]:
    """The messages with `replace` applied to every string value in them, apart from roles and part types."""
    return [_map_strings(message, replace) for message in messages]


def _map_strings(value: Any, replace: Any) -> Any:
    if isinstance(value, str):
        return replace(value)
    if isinstance(value, dict):
        return {key: item if key in ("role", "type") else _map_strings(item, replace) for key, item in value.items()}
    return [_map_strings(item, replace) for item in value] if isinstance(value, list) else value


def _check_message(message: Any, where: str, copier: _Copier) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ValueError(f'{where} must be a dict with "role" and "content", got {type(message).__name__}')
    for key in ("role", "content"):
        # An assistant message that only calls tools has no content.
        if key == "content" and message.get(key) is None and message.get("tool_calls"):
            continue
        if key not in message:
            raise ValueError(f"{where} has no {key!r}; its keys are: {', '.join(map(repr, message)) or 'none'}")
    role, content = message["role"], message.get("content")
    if not isinstance(role, str):
        raise ValueError(f"{where}['role'] must be a string, got {type(role).__name__}")
    if not role:
        raise ValueError(f"{where}['role'] is empty; use 'system', 'user' or 'assistant'")
    if isinstance(content, (list, tuple)):
        for index, part in enumerate(content):
            _check_part(part, f"{where}['content'][{index}]")
    elif not isinstance(content, str) and not (content is None and message.get("tool_calls")):
        raise ValueError(f"{where}['content'] must be a string or a list of text parts, got {type(content).__name__}")
    plain = copier.copy({key: value for key, value in message.items() if value is not None}, where)
    reasoning = next((plain[key] for key in _REASONING_KEYS if key in plain), None)
    return plain if reasoning is None else {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def _check_part(part: Any, where: str) -> None:
    if not isinstance(part, Mapping):
        raise ValueError(f'{where} must be a dict like {{"type": "text", "text": "..."}}, got {type(part).__name__}')
    if part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
        raise ValueError(
            f'{where} must be a text part, {{"type": "text", "text": "..."}}; tinyllm runs models of text only, found'
            f" the type {part.get('type')!r} with the keys {', '.join(map(repr, part))}"
        )


class _Copier:
    """Copies values and counts them: data nested in itself, or shared often enough, has no end."""

    def __init__(self) -> None:
        self._values_left = _MAX_VALUES

    def copy(self, value: Any, where: str, depth: int = 0) -> Any:
        self._values_left -= 1
        if self._values_left < 0:
            raise ValueError(f"{where}: the data has more than {_MAX_VALUES} values; it may contain itself")
        if depth > _MAX_DEPTH:
            raise ValueError(f"{where[:80]}...: the data is more than {_MAX_DEPTH} levels deep; it may contain itself")
        if value is None or isinstance(value, bool):
            return value
        # The base type's own method: `str(value)` of an enum member that is a string would give the member's name.
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return int.__int__(value)
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, Mapping):
            return {
                self.copy(key, where): self.copy(item, f"{where}[{key!r}]", depth + 1) for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.copy(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
        kind = type(value).__name__
        raise ValueError(f"{where} must be JSON data (str, number, bool, None, list or dict), got {kind}")
