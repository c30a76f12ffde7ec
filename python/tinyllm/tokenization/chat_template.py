"""Renders a checkpoint's own chat template.

Templates are Jinja programs that come with the checkpoint, so they are untrusted: they see plain JSON data only, and
run under the limits of template_environment.py. Filters, globals and variables are those that templates are written
for, as transformers documents and implements them
(https://huggingface.co/docs/transformers/chat_templating_writing and `transformers/utils/chat_template_utils.py`).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2 import meta

from ..errors import CheckpointError
from .messages import check_messages, join_text_parts, plain_data
from .template_environment import TemplateEnvironment, TemplateRefusalError
from .template_limits import LimitExceededError, limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What evaluating a template can raise because the messages are not what the template expects (Jinja's own errors,
# and Python's errors from operators and methods inside expressions).
_EVALUATION_ERRORS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)

# What Python raises for a template that is nested too deep to parse, to compile or to run.
_DEPTH_ERRORS = (SyntaxError, RecursionError, MemoryError, OverflowError)

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
            CheckpointError: the template is not valid Jinja, or larger or deeper than any real one.
        """
        self.text = text
        self.origin = origin
        self._special_tokens = dict(special_tokens)
        environment = TemplateEnvironment()
        try:
            syntax_tree = environment.parse(text)
            self._variables = frozenset(meta.find_undeclared_variables(syntax_tree))
            self._template = environment.from_string(syntax_tree)
        except jinja2.TemplateSyntaxError as error:
            raise CheckpointError(
                f"{origin}, line {error.lineno}: not a valid Jinja template: {error.message}"
            ) from error
        except LimitExceededError as error:
            raise CheckpointError(f"{origin} costs more than a chat template may: {error}") from error
        except (*_DEPTH_ERRORS, ValueError) as error:
            raise CheckpointError(f"{origin} cannot be compiled: {type(error).__name__}: {error}") from error

    def render(
        self, messages: Sequence[Mapping[str, Any]], /, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The conversation as the text that the model was trained on.

        Args:
            messages: each with "role" and "content"; other keys (tool_calls, name, ...) go to the template. Content is
                a string or a list of text parts, which are joined with newlines for a template that knows no parts.
            add_generation_prompt: end with the opening of an assistant message.
            variables: further template variables, for example tools=[...] or enable_thinking=False.

        Raises:
            ValueError: malformed messages, a variable that the template does not use, or messages that the template
                refuses (`raise_exception`) or cannot process.
            CheckpointError: the template does what the sandbox forbids, or costs more than a chat template may.
        """
        return self.render_checked(check_messages(messages), add_generation_prompt, **variables)

    def render_checked(
        self, plain_messages: list[dict[str, Any]], /, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """As `render`, of messages that `check_messages` made."""
        plain_variables = self._check_variables(variables)
        if any(isinstance(message.get("content"), list) for message in plain_messages) and not self._knows_parts:
            plain_messages = join_text_parts(plain_messages)
        return self._render(plain_messages, bool(add_generation_prompt), plain_variables)

    def _render(self, messages: list[dict[str, Any]], add_generation_prompt: bool, variables: dict[str, Any]) -> str:
        try:
            with limits():
                return self._template.render(
                    messages=messages,
                    add_generation_prompt=add_generation_prompt,
                    **{**dict.fromkeys(_OPTIONAL_VARIABLES), **self._special_tokens, **variables},
                )
        except jinja2.exceptions.SecurityError as error:
            raise CheckpointError(f"{self.origin} does what the sandbox forbids: {error}") from error
        except TemplateRefusalError as error:
            raise ValueError(f"{self.origin} refuses these messages: {error}") from error
        except (LimitExceededError, RecursionError, MemoryError) as error:
            reason = str(error) or type(error).__name__
            raise CheckpointError(
                f"{self.origin} costs more than a chat template may: {reason}; write the prompt yourself and use"
                " generate() instead"
            ) from error
        except (jinja2.TemplateError, *_EVALUATION_ERRORS) as error:
            raise ValueError(f"{self.origin} cannot process these messages: {type(error).__name__}: {error}") from error

    @cached_property
    def _knows_parts(self) -> bool:
        """Whether the template itself goes through content that is a list of parts: it is tried."""
        probe = "text of a part"
        message = {"role": "user", "content": [{"type": "text", "text": probe}]}
        try:
            text = self._render([message], True, {})
        except (ValueError, CheckpointError):
            return False
        return probe in text and "{'type'" not in text and '{"type"' not in text

    def _check_variables(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The variables as plain data. ValueError for one without effect: a typing error must not pass silently."""
        plain = {}
        for name, value in variables.items():
            if name in _ARGUMENT_VARIABLES:
                raise ValueError(f"{name!r} cannot be a template variable: it is an argument of its own")
            if name not in self._variables and not (name in _OPTIONAL_VARIABLES and value is None):
                known = sorted(self._variables - set(_ARGUMENT_VARIABLES) - set(self._special_tokens))
                raise ValueError(
                    f"{self.origin} does not use the variable {name!r}, so {value!r:.80} would have no effect;"
                    f" it uses: {', '.join(known) or 'none'}"
                )
            plain[name] = plain_data(value, name)
        return plain
