"""The functions, methods, filters and tests that a template may use, and what they cost."""

import datetime
import json
from collections.abc import Callable, Iterator
from typing import Any

from jinja2 import filters, pass_context, tests
from jinja2.runtime import Context
from jinja2.sandbox import safe_range
from jinja2.utils import Namespace

from .language import as_text, walked
from .meter import (
    ITEM,
    LARGEST,
    TOO_LARGE,
    Meter,
    MeteredContext,
    RaisedError,
    RefusedError,
    extent,
)

__all__ = ["FILTERS", "FUNCTIONS", "METHODS", "TESTS"]

LONGEST_ARGUMENT = 100  # characters, where the time of a call grows with this length too
WIDEST_INDENT = 32  # characters
NAMESPACE = 6 * ITEM  # units of an empty one

Price = Callable[..., int]


class _Namespace(Namespace):
    """Variables that loops may change. It prints as no more than its kind."""

    def __repr__(self) -> str:
        return "<Namespace>"


def _namespace(meter: Meter, /, *args: Any, **kwargs: Any) -> Namespace:
    meter.pay(NAMESPACE)
    return _Namespace(*args, **kwargs)


def _dict(meter: Meter, /, *args: Any, **kwargs: Any) -> Any:
    return meter.keep(dict(*args, **kwargs))


def _range(meter: Meter, *args: int) -> range:
    return safe_range(*args)


def _raise_exception(meter: Meter, message: Any = "") -> None:
    raise RaisedError(str(message))


def _strftime_now(meter: Meter, form: str) -> str:
    _check_short(form)
    return datetime.datetime.now().strftime(form)


FUNCTIONS: dict[str, Any] = {
    "dict": _dict,
    "namespace": _namespace,
    "raise_exception": _raise_exception,
    "range": _range,
    "strftime_now": _strftime_now,
}


def _check_short(*texts: Any) -> None:
    if any(isinstance(text, str) and len(text) > LONGEST_ARGUMENT for text in texts):
        raise RefusedError(
            f"it passes a text of more than {LONGEST_ARGUMENT} characters as a setting"
        )


# What the methods of a value cost, given the value and the arguments.


def _free(value: Any, *args: Any, **kwargs: Any) -> int:
    return 0


def _copy(text: str, *args: Any, **kwargs: Any) -> int:
    return len(text)


def _other_case(text: str) -> int:
    return 3 * len(text)  # a character becomes at most three: Unicode's SpecialCasing.txt


def _search(text: str, *args: Any, **kwargs: Any) -> int:
    """A copy; the time is the product of both lengths: of characters to strip, or from the end."""
    _check_short(*args, *kwargs.values())
    return len(text)


def _pieces(text: str, sep: str | None = None, *args: Any, **kwargs: Any) -> int:
    return len(text) + ITEM * (len(text) if sep is None else text.count(sep) + 1)


def _pieces_from_the_end(text: str, sep: str | None = None, *args: Any, **kwargs: Any) -> int:
    _check_short(sep)
    return _pieces(text, sep)


def _lines(text: str, *args: Any, **kwargs: Any) -> int:
    return _pieces(text)


def _replaced(text: str, old: str, new: str, *args: Any, **kwargs: Any) -> int:
    return len(text) + text.count(old) * len(new)


def _put_together(glue: str, parts: Any) -> int:
    return sum(len(part) + len(glue) for part in parts)


_QUESTIONS = ("isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "islower", "isnumeric")
METHODS: dict[type, dict[str, Price]] = {
    str: {
        **dict.fromkeys(_QUESTIONS, _free),
        **dict.fromkeys(("isspace", "istitle", "isupper", "startswith", "endswith"), _free),
        **dict.fromkeys(("count", "find", "index"), _free),
        **dict.fromkeys(("removeprefix", "removesuffix", "partition"), _copy),
        **dict.fromkeys(("strip", "lstrip", "rstrip", "rfind", "rindex", "rpartition"), _search),
        **dict.fromkeys(("upper", "lower", "title", "capitalize", "swapcase"), _other_case),
        "casefold": _other_case,
        "split": _pieces,
        "rsplit": _pieces_from_the_end,
        "splitlines": _lines,
        "replace": _replaced,
        "join": _put_together,
    },
    dict: dict.fromkeys(("get", "items", "keys", "values"), _free),
    list: dict.fromkeys(("count", "index"), _free),
    tuple: dict.fromkeys(("count", "index"), _free),
    float: dict.fromkeys(("is_integer",), _free),
}


# The filters. What they make is paid for before, by a bound on its size.


def _filter(function: Callable[..., Any], takes: str = "") -> Callable[..., Any]:
    """Return jinja2's filter with a price; `takes` is what it wants first, beside the value.

    What it returns is at most a copy of the value, or three times a text, or its items.
    """

    @pass_context
    def priced(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(context, MeteredContext)
        meter = context.meter
        _check_short(*args, *kwargs.values())
        meter.pay(3 * extent(value))
        first = {"": (), "context": (context,), "environment": (context.environment,)}[takes]
        result = function(*first, value, *args, **kwargs)
        if isinstance(result, Iterator):
            result = list(walked(meter, result))
        return meter.keep(result)

    return priced


def _metered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter from a function of the meter, the value, and arguments."""

    @pass_context
    def with_meter(context: Context, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(context, MeteredContext)
        context.meter.tick()
        return function(context.meter, *args, **kwargs)

    return with_meter


def _ticking(test: Any) -> Callable[..., Any]:
    return _metered(lambda meter, *args, **kwargs: test(*args, **kwargs))


def _default(meter: Meter, value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    return filters.do_default(value, default_value, boolean)


def _int(meter: Meter, value: Any, default: int = 0, base: int = 10) -> int:
    _check_short(value)
    return filters.do_int(value, default, base)


def _round(meter: Meter, value: float, precision: int = 0, method: Any = "common") -> float:
    if not -LONGEST_ARGUMENT <= precision <= LONGEST_ARGUMENT:
        raise RefusedError("it rounds to too many digits")
    return filters.do_round(value, precision, method)


def _list(meter: Meter, value: Any) -> Any:
    if isinstance(value, str):
        meter.pay(ITEM * len(value))
    return meter.keep(list(walked(meter, value)))


def _string(meter: Meter, value: Any) -> str:
    return as_text(meter, value)


def _join(meter: Meter, value: Any, d: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        raise RefusedError("it joins by attribute; map(attribute=...) does the same")
    parts = [as_text(meter, part) for part in walked(meter, value)]
    glue = as_text(meter, d)
    meter.pay(_put_together(glue, parts))
    return glue.join(parts)


def _replace(meter: Meter, value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = (as_text(meter, part) for part in (value, old, new))
    meter.pay(_replaced(text, old, new))
    return str(text).replace(old, new, -1 if count is None else count)


def _indent(
    meter: Meter, value: Any, width: int | str = 4, first: bool = False, blank: bool = False
) -> str:
    text = as_text(meter, value)
    if (len(width) if isinstance(width, str) else width) > WIDEST_INDENT:
        raise RefusedError(f"it indents by more than {WIDEST_INDENT} characters")
    meter.pay(_lines(text))
    meter.pay(len(text) + WIDEST_INDENT * len(text.splitlines()))
    return filters.do_indent(text, width, first, blank)


def _tojson(
    meter: Meter,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as transformers does: without jinja2's escapes for HTML."""
    if indent is not None and (len(indent) if isinstance(indent, str) else indent) > WIDEST_INDENT:
        raise RefusedError(f"it indents by more than {WIDEST_INDENT} characters")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    pieces, size = [], 0
    for piece in encoder.iterencode(value):
        meter.pay(extent(piece))
        size += len(piece)
        if size > LARGEST:
            raise RefusedError(TOO_LARGE)
        pieces.append(piece)
    return "".join(pieces)


FILTERS: dict[str, Callable[..., Any]] = {
    **{
        name: _filter(filters.FILTERS[name])
        for name in ("abs", "capitalize", "count", "dictsort", "float", "items", "length", "lower")
    },
    **{name: _filter(filters.FILTERS[name]) for name in ("reverse", "title", "trim", "upper")},
    **{
        name: _filter(filters.FILTERS[name], "environment")
        for name in ("first", "last", "max", "min", "sort")
    },
    **{
        name: _filter(filters.FILTERS[name], "context")
        for name in ("map", "reject", "rejectattr", "select", "selectattr")
    },
    "d": _metered(_default),
    "default": _metered(_default),
    "indent": _metered(_indent),
    "int": _metered(_int),
    "join": _metered(_join),
    "list": _metered(_list),
    "replace": _metered(_replace),
    "round": _metered(_round),
    "safe": _metered(as_text),  # nothing is ever escaped
    "string": _metered(as_text),
    "tojson": _metered(_tojson),
}
TESTS: dict[str, Callable[..., bool]] = {
    name: _ticking(tests.TESTS[name])
    for name in (
        *("defined", "undefined", "none", "true", "false", "boolean", "callable", "iterable"),
        *("string", "number", "integer", "float", "mapping", "sequence", "sameas", "in"),
        *("eq", "==", "equalto", "ne", "!=", "lt", "<", "lessthan", "le", "<="),
        *("gt", ">", "greaterthan", "ge", ">=", "even", "odd", "divisibleby", "lower", "upper"),
    )
}
