"""Renders a checkpoint's own chat template.

Templates are Jinja programs that come with the checkpoint, so they are untrusted: they run in Jinja's immutable sandbox
and see plain JSON data only. Environment, filters, globals and variables are those that templates are written for, as
transformers documents and implements them (https://huggingface.co/docs/transformers/chat_templating_writing and
`transformers/utils/chat_template_utils.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import CheckpointError

# What evaluating a template can raise because the messages are not what the template expects (Jinja's own errors,
# and Python's errors from operators and methods inside expressions).
_EVALUATION_ERRORS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)

# Always passed, and None unless given: templates test them with `is not none` and `is defined`.
_OPTIONAL_VARIABLES = ("tools", "documents")

# Set by `render` from its own arguments.
_ARGUMENT_VARIABLES = ("messages", "add_generation_prompt")


class ChatTemplate:
    """One compiled chat template. Immutable, so one object serves any number of threads."""

    def __init__(self, text: str, origin: str, special_tokens: Mapping[str, str]) -> None:
        """Compile a template.

        Args:
            text: the template.
            origin: where it came from, for messages ("model.gguf: chat template").
            special_tokens: template variables such as bos_token and eos_token.

        Raises:
            CheckpointError: the template is not valid Jinja.
        """
        self.text = text
        self.origin = origin
        self._special_tokens = dict(special_tokens)
        environment = _environment()
        try:
            syntax_tree = environment.parse(text)
            self._template = environment.from_string(syntax_tree)
        except jinja2.TemplateSyntaxError as error:
            raise CheckpointError(
                f"{origin}, line {error.lineno}: not a valid Jinja template: {error.message}"
            ) from error
        self._variables = frozenset(meta.find_undeclared_variables(syntax_tree))

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The conversation as the text that the model was trained on.

        Args:
            messages: each with "role" and "content" strings; other keys (tool_calls, name, ...) go to the template.
            add_generation_prompt: end with the opening of an assistant message.
            variables: further template variables, for example tools=[...] or enable_thinking=False.

        Raises:
            ValueError: malformed messages, a variable that the template does not use, or messages that the template
                refuses (`raise_exception`) or cannot process.
            CheckpointError: the template does what the sandbox forbids.
        """
        plain_messages = check_messages(messages)
        plain_variables = self._check_variables(variables)
        try:
            return self._template.render(
                messages=plain_messages,
                add_generation_prompt=bool(add_generation_prompt),
                **{**dict.fromkeys(_OPTIONAL_VARIABLES), **self._special_tokens, **plain_variables},
            )
        except jinja2.exceptions.SecurityError as error:
            raise CheckpointError(f"{self.origin} does what the sandbox forbids: {error}") from error
        except _TemplateRefusalError as error:
            raise ValueError(f"{self.origin} refuses these messages: {error}") from error
        except (jinja2.TemplateError, *_EVALUATION_ERRORS) as error:
            raise ValueError(f"{self.origin} cannot process these messages: {type(error).__name__}: {error}") from error

    def _check_variables(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The variables as plain data. ValueError for one without effect: a typing error must not pass silently."""
        plain = {}
        for name, value in variables.items():
            if name not in self._variables and not (name in _OPTIONAL_VARIABLES and value is None):
                known = sorted(self._variables - set(_ARGUMENT_VARIABLES) - set(self._special_tokens))
                raise ValueError(
                    f"{self.origin} does not use the variable {name!r}, so {value!r} would have no effect;"
                    f" it uses: {', '.join(known) or 'none'}"
                )
            plain[name] = _plain(value, name)
        return plain


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A copy of the messages made of plain JSON types.

    Raises:
        ValueError: naming the message (counted from 0), the key and what is wrong with it.
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise ValueError(
            f'messages must be a list like [{{"role": "user", "content": "Hello"}}], got {type(messages).__name__}'
        )
    if not messages:
        raise ValueError('messages is empty; give at least [{"role": "user", "content": "..."}]')
    return [_check_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _check_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ValueError(f'{where} must be a dict with "role" and "content", got {type(message).__name__}')
    for key in ("role", "content"):
        # An assistant message that only calls tools has no content.
        if key == "content" and message.get(key) is None and message.get("tool_calls"):
            continue
        if key not in message:
            raise ValueError(f"{where} has no {key!r}; its keys are: {', '.join(map(repr, message)) or 'none'}")
        if not isinstance(message[key], str):
            raise ValueError(f"{where}[{key!r}] must be a string, got {type(message[key]).__name__}")
    if not message["role"]:
        raise ValueError(f"{where}['role'] is empty; use 'system', 'user' or 'assistant'")
    plain: dict[str, Any] = _plain(message, where)
    return plain


def _plain(value: Any, where: str) -> Any:
    """A copy of `value` made of exact JSON types, so that a template gets no object with methods of its own."""
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
        return {_plain(key, where): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise ValueError(f"{where} must be JSON data (str, number, bool, None, list or dict), got {type(value).__name__}")


def _environment() -> jinja2.Environment:
    """The Jinja environment that chat templates are written for."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}` marks assistant text for training; rendering just keeps the text."""

    tags = frozenset({"generation"})  # type: ignore[assignment]  # Jinja states a set and only reads it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class _TemplateRefusalError(Exception):
    """Raised by a template's own `raise_exception(message)`."""


def _raise_exception(message: str) -> None:
    raise _TemplateRefusalError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own `tojson` escapes HTML characters, which a prompt must not contain."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
