"""The statements and expressions that a template may use, and the guards between them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jinja2.nodes as n
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from .meter import ITEM, Meter, RefusedError, extent

__all__ = ["GUARDS", "Generation", "Guarding", "as_text", "walked"]


# The statements and expressions of the language.
LANGUAGE = frozenset(
    {
        *(n.Template, n.Output, n.TemplateData, n.Scope, n.With, n.If, n.For, n.Break, n.Continue),
        *(n.Assign, n.AssignBlock, n.Macro, n.CallBlock, n.FilterBlock, n.NSRef, n.Name, n.Const),
        *(n.List, n.Tuple, n.Dict, n.Pair, n.Keyword, n.Getattr, n.Getitem, n.Slice, n.Call),
        *(n.Filter, n.Test, n.CondExpr, n.And, n.Or, n.Not, n.Compare, n.Operand, n.Concat),
        *(n.Add, n.Sub, n.Mul, n.Div, n.FloorDiv, n.Mod, n.Pow, n.Neg, n.Pos),
    }
)
UNPAID = ("varargs", "kwargs")  # tables that jinja2 makes


class Generation(Extension):
    """`{% generation %}`, by which transformers finds what the model wrote; here it is a scope."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as a variable

    def parse(self, parser: Parser) -> n.Node:
        """Return the statements up to `{% endgeneration %}`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return n.Scope(body, lineno=line)


class Guarding(NodeTransformer):
    """Puts guards into a parsed template where jinja2 itself has no hook, and closes the language.

    After it, everything that makes a value, repeats something, or takes time that grows with a
    value, passes through a function of this package.
    """

    def generic_visit(self, node: n.Node, *args: Any, **kwargs: Any) -> n.Node:
        """Return the node with guards inside or around it; refuse what the language lacks."""
        if type(node) not in LANGUAGE or (isinstance(node, n.Name) and node.name in UNPAID):
            name = node.name if isinstance(node, n.Name) else type(node).__name__.lower()
            raise RefusedError(f"it uses {name!r}, which chat templates may not use here")
        super().generic_visit(node, *args, **kwargs)
        match node:
            case n.TemplateData():
                return n.Const(node.data, lineno=node.lineno)  # jinja2 writes it without asking
            case n.Concat():
                return _guarded(joined, *node.nodes)
            case n.List() | n.Dict() | n.Tuple(ctx="load"):
                return _guarded(made, node)
            case n.Compare():
                node.expr = _guarded(timed, node.expr)
            case n.For():
                node.iter = _guarded(walked, node.iter)
            case n.Getitem(arg=n.Slice()):
                node.node = _guarded(copied, node.node)
            case n.Getitem():
                node.arg = _guarded(timed, node.arg)
        return node


def _guarded(guard: Callable[..., Any], *nodes: n.Node) -> n.Call:
    name = n.EnvironmentAttribute(guard.__name__)
    return n.Call(name, list(nodes), [], None, None, lineno=nodes[0].lineno)


def timed(meter: Meter, value: Any) -> Any:
    """Return the value; the call has looked at the clock."""
    return value


def made(meter: Meter, value: Any) -> Any:
    """Return a new list or table, after paying for it."""
    return meter.keep(value)


def copied(meter: Meter, value: Any) -> Any:
    """Return the value, after paying for a copy."""
    meter.pay(extent(value))
    return value


def joined(meter: Meter, *parts: Any) -> str:
    """Return the texts of all parts, joined."""
    texts = [as_text(meter, part) for part in parts]
    meter.pay(ITEM + sum(map(len, texts)))
    return "".join(texts)


def walked(meter: Meter, values: Iterable[Any]) -> Iterator[Any]:
    """Yield the values, and look at the clock before each."""
    if isinstance(values, str):  # its length may be asked for, and then it becomes a list
        meter.pay(ITEM * len(values))
    for value in values:
        meter.tick()
        yield value


GUARDS = (timed, made, copied, joined, walked)


def as_text(meter: Meter, value: Any) -> str:
    """Return a value as jinja2 writes it, after paying if that makes a new text."""
    if isinstance(value, str):
        return value
    text = str(value)
    meter.pay(extent(text))
    return text
