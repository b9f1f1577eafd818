"""Checks before operations of a chat template whose result can be far larger than their arguments.

Owns the rules for operators, methods and filters that multiply sizes, or whose time grows faster than their size: each
is measured first, and refused if it could explode. The sandbox decides when to check, and its `Budget` counts. Knows
Jinja's types, not its compiler. Invariant: whatever passes here takes time and memory in proportion to the budget's
largest value.
"""

from __future__ import annotations

import re
from datetime import datetime
from string import Formatter
from typing import TYPE_CHECKING, Any, NoReturn

from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext

from miaotui.errors import RequestError

if TYPE_CHECKING:
    from miaotui.text.templates.sandbox import Budget

MAX_INTEGER_BITS = 4096
GROWING = frozenset({"*", "**", "%"})  # operators whose result can be far larger than its arguments
MAX_NEEDLE = 256  # characters of a text to search for
MAX_WIDTH = 256  # columns of indentation, digits of rounding
MAX_FIELD = 999  # characters that printf-style formatting may pad a number to
MAX_FORMAT = 4096  # characters of such a format; searching one takes length x length
_DATE = re.compile("(?:[^%]|%-?[a-zA-Z%])*")
_PADDING = re.compile(r"%(?:\([^)]*\))?[^a-zA-Z%]*(?:\d{4}|\*)")


def names(words: str) -> frozenset[str]:
    """Return the words of a text, as a set."""
    return frozenset(words.split())


_METHODS: dict[type, frozenset[str]] = {
    str: names(
        "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal "
        "isdigit islower isnumeric isspace istitle isupper join lower lstrip partition "
        "removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines "
        "startswith strip swapcase title upper"
    ),
    dict: names("get items keys values"),
    list: names("count index"),
    tuple: names("count index"),
    LoopContext: names("changed cycle"),
}
# Searches that take length x needle; those that go forward do not.
_SEARCHES = names("lstrip rfind rindex rpartition rsplit rstrip strip trim")
# Filters that write their argument as text, whatever it is.
_WRITERS = names("capitalize e escape indent join lower replace safe string title trim upper")


def raise_exception(message: object) -> NoReturn:
    """Refuse the messages, as a template asks. Raises `RequestError`: the messages are at fault."""
    raise RequestError(f"the model's chat template refuses these messages: {str(message)[:500]}")


def strftime_now(pattern: str) -> str:
    """Return the local date and time, as `time.strftime` writes it."""
    short = len(pattern) <= MAX_NEEDLE
    require(short and bool(_DATE.fullmatch(pattern)), "short date patterns without widths")
    return datetime.now().strftime(pattern)


def before_operator(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """Refuse an operation, one of `GROWING`, whose result would be too large."""
    allow = budget.allow
    sized = (str, list, tuple)
    if operator == "*" and isinstance(left, sized) and isinstance(right, int):
        allow(budget.weight(left) * right)
    elif operator == "*" and isinstance(right, sized) and isinstance(left, int):
        allow(budget.weight(right) * left)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        require(left.bit_length() * abs(right) <= MAX_INTEGER_BITS, "a power that is not so large")
    elif operator == "%" and isinstance(left, str):
        require(len(left) <= MAX_FORMAT, f"printf-style formats of at most {MAX_FORMAT} characters")
        require(not _PADDING.search(left), f"fields of at most {MAX_FIELD} characters")
        allow(len(left) + left.count("%") * (budget.weight(right) + MAX_FIELD))


def before_format(budget: Budget, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a ``str.format`` whose result could be too large."""
    fields = list(Formatter().parse(text))
    require(not any(spec for _, _, spec, _ in fields), "format fields without a width")
    weight = budget.weight([args, kwargs])
    budget.allow(len(text) + len(fields) * weight)


def before_method(budget: Budget, owner: object, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse a method that templates do not need, or whose result would be too large.

    Returns the arguments, with what can be read only once made a list.
    """
    allowed = next((names for kind, names in _METHODS.items() if isinstance(owner, kind)), ())
    if name not in allowed:
        raise SecurityError(f"the method {name} of {type(owner).__name__} may not be called")
    if isinstance(owner, str):
        _check_search(name, args)
        if name == "join" and args:
            args = (list(args[0]), *args[1:])
            _check_join(budget, owner, args[0])
        elif name == "replace" and len(args) > 1:
            _check_replace(budget, owner, *args[:2])
    return args


def before_filter(budget: Budget, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Refuse a filter whose result would be too large; as `before_method`."""
    options = args[1:] + tuple(kwargs.values())
    _check_search(name, options)
    if name in _WRITERS:
        budget.allow(budget.weight(args[0]))
    if name == "join":
        args = (list(args[0]), *args[1:])
        _check_join(budget, str(next(iter(options), "")), args[0])
    elif name == "replace":
        _check_replace(budget, str(args[0]), *options[:2])
    elif name in ("indent", "round"):
        sizes = [len(v) if isinstance(v, str) else abs(v) for v in options if _is_size(v)]
        require(max(sizes, default=0) <= MAX_WIDTH, f"at most {MAX_WIDTH} in the filter {name}")
        if name == "indent":
            budget.allow((str(args[0]).count("\n") + 1) * max(sizes, default=4))
    return args


def _is_size(value: object) -> bool:
    return isinstance(value, (int, str))


def _check_search(name: str, args: tuple[Any, ...]) -> None:
    if name in _SEARCHES and args and isinstance(args[0], str):
        require(len(args[0]) <= MAX_NEEDLE, f"at most {MAX_NEEDLE} characters to {name}")


def _check_join(budget: Budget, separator: str, items: list[Any]) -> None:
    budget.allow(budget.weight(items) + len(separator) * len(items))


def _check_replace(budget: Budget, text: str, old: Any, new: Any) -> None:
    times = text.count(str(old)) if old else len(text) + 1
    budget.allow(len(text) + times * len(str(new)))


def require(holds: bool, expected: str) -> None:
    """Raise `SecurityError` for what templates may not use."""
    if not holds:
        raise SecurityError(f"templates may use only {expected}")
