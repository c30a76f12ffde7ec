"""The Jinja environment of chat templates, with limits.

A template is a program from an unknown hand. Jinja's sandbox keeps it from the machine, but not from running for ever
or from filling the memory. This environment keeps three promises while a template renders:

- every value is small. Whatever makes values (operators, literals, filters, calls) is checked after it ran, and
  before it runs where one step could make a huge one ('x' * 10**9, '%1000000000d', 'a'.replace);
- time is checked at every round of a loop, every call and every filter, and between two checks only one operation on
  small values runs;
- what is written is counted as it is written, also inside macros and blocks.

Nothing is computed when a template is compiled.
"""

from __future__ import annotations

import functools
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from . import template_limits
from .template_limits import (
    LimitExceededError,
    check_call,
    check_joined,
    check_json_options,
    check_operation,
    checked,
    current_budget,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Filters that `_Limiter` puts into a template, by names that no template can write.
_ROUNDS, _CHECKED, _CONCAT = "rounds of a loop", "checked value", "joined texts"


class TemplateRefusalError(Exception):
    """Raised by a template's own `raise_exception(message)`."""


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """One for each template. `parse` gives the tree for `from_string`; it renders inside `template_limits.limits`."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _GenerationTag],
            optimized=False,
            finalize=_write,
        )
        self.filters["tojson"] = _to_json
        self.filters = {name: _limited(name, function) for name, function in self.filters.items()}
        self.filters |= {_ROUNDS: _rounds, _CHECKED: _checked, _CONCAT: _concat}
        del self.globals["lipsum"]  # makes any amount of text out of a number
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        self._constant_characters = 0  # of the whole template: what a macro or a loop's round writes at most

    def parse(self, source: str, name: str | None = None, filename: str | None = None) -> nodes.Template:
        """The tree of a template, with checks in it."""
        if len(source) > template_limits.MAX_TEMPLATE:
            raise LimitExceededError(f"it has {len(source)} characters, more than {template_limits.MAX_TEMPLATE}")
        tree = super().parse(source, name, filename)
        self._constant_characters = _constant_characters(tree)
        limited: nodes.Template = _Limiter().visit(tree)
        return limited

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Every operator with two sides passes here."""
        check_operation(operator, left, right)
        return checked(super().call_binop(context, operator, left, right))

    def call(self, context: jinja2.runtime.Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Every call passes here: of functions, methods, macros and recursive loops."""
        current_budget().check_time()
        if isinstance(obj, Macro):
            current_budget().write(self._constant_characters)
        elif isinstance(obj, LoopContext) and args:
            args = (_Rounds(args[0], self._constant_characters), *args[1:])  # of a recursive loop
        else:
            method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps str.format
            check_call(getattr(method, "__name__", ""), getattr(method, "__self__", None), [*args, *kwargs.values()])
        return checked(super().call(context, obj, *args, **kwargs))


class _GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}` marks assistant text for training; rendering just keeps the text."""

    tags = frozenset({"generation"})  # type: ignore[assignment]  # Jinja states a set and only reads it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class _Limiter(NodeTransformer):
    """Puts checks into a parsed template where Jinja has no hook: loops, literals, `~`."""

    # ruff: noqa: N802, N815  # Jinja's names
    def visit_For(self, node: nodes.For) -> nodes.Node:
        characters = nodes.Const(_constant_characters(node), lineno=node.lineno)
        self.generic_visit(node)
        node.iter = _filter(cast("nodes.Expr", node.iter), _ROUNDS, characters)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), _CONCAT)

    def visit_List(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, _CHECKED)

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, _CHECKED) if node.ctx == "load" else node


def _filter(node: nodes.Expr, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def _constant_characters(node: nodes.Node) -> int:
    return sum(len(data.data) for data in node.find_all(nodes.TemplateData))


class _Rounds:
    """The iterable of a loop; each round is counted with the characters it may write beside its values."""

    def __init__(self, iterable: Iterable[Any], characters: int) -> None:
        self._iterable = iterable
        self._characters = characters

    def __iter__(self) -> Iterator[Any]:
        for value in self._iterable:
            current_budget().check_time()
            current_budget().write(self._characters)
            yield value

    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]  # a TypeError says that it has none, as of any iterator


@jinja2.pass_context
def _rounds(_: jinja2.runtime.Context, iterable: Iterable[Any], characters: int) -> _Rounds:
    return _Rounds(iterable, characters)


@jinja2.pass_context
def _checked(_: jinja2.runtime.Context, value: Any) -> Any:
    return checked(value)


@jinja2.pass_context
def _concat(_: jinja2.runtime.Context, values: list[Any]) -> str:
    for value in values:
        checked(value)
    texts = [str(value) for value in values]
    check_joined("", texts)
    return "".join(texts)


@jinja2.pass_context
def _write(_: jinja2.runtime.Context, value: Any) -> str:
    """Every value that the template writes passes here."""
    text = str(checked(value))
    current_budget().write(len(text))
    return text


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter with checks of time, arguments and result.

    It takes the context, so that Jinja cannot compute it before there is one, that is while the template is compiled.
    """
    takes = getattr(function, "jinja_pass_arg", None)

    @jinja2.pass_context
    @functools.wraps(function)
    def limited(context: jinja2.runtime.Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        current_budget().check_time()
        arguments = [*args, *kwargs.values()]
        if name == "join" and not kwargs.get("attribute") and len(args) < 2:
            value = list(value)
            check_joined(str(arguments[0]) if arguments else "", value)
        elif name == "sum" and any(isinstance(argument, (list, tuple, dict)) for argument in arguments):
            raise LimitExceededError("lists are added up")
        elif name == "tojson":
            check_json_options(arguments)
        elif name == "format":
            check_operation("%", value, tuple(arguments))
        else:
            check_call(name, value, arguments)
        if takes is not None:
            extra = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
            args = (value, *args)
            value = extra[takes.name]
        result = checked(function(value, *args, **kwargs))
        current_budget().make(result)
        return result

    return limited


def _raise_exception(message: str) -> None:
    raise TemplateRefusalError(message)


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
