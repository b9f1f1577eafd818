"""Bounds of one rendering of a chat template: time, memory, the size of any one value, and checks before operations.

Owns the counting (`Budget`), and the rules for operators, methods and filters whose result can be far larger than
their arguments, or whose time grows faster than their size: each is measured first, and refused if it could explode.
The sandbox decides when to count. Knows Jinja's types, not its compiler. Invariant: a value whose size was allowed can
be printed, compared or sorted in about the time its size suggests; whatever passes here takes time and memory in
proportion to the budget's largest value.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime
from string import Formatter
from typing import Any, NoReturn

from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext
from jinja2.utils import Namespace
from markupsafe import Markup, escape

from miaotui.errors import RequestError, TemplateError

FREE_CHARACTERS = 1 << 20  # any template may use so many
VALUE_FACTOR = 2  # one value may be this many times as large as the input, and
TOTAL_FACTOR = 32  # all values together this many times
MAX_INTEGER_BITS = 4096
current: ContextVar[Budget] = ContextVar("template_budget")
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


class Budget:
    """Time and memory left for one rendering of at most `limit_s`, given an input of `input_characters`.

    `private`: characters of the input that stand for others, see `escaping`. Every method raises
    `TemplateError` when its bound is passed.
    """

    def __init__(self, input_characters: int, limit_s: float, private: Mapping[str, str] | None = None) -> None:
        self.private = private or {}
        self.largest = FREE_CHARACTERS + VALUE_FACTOR * input_characters
        self._left = FREE_CHARACTERS + TOTAL_FACTOR * input_characters
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s

    def step(self) -> None:
        """Count one step of the template against the time."""
        if time.monotonic() > self._deadline:
            raise _exceeded(f"more than {self._limit_s:g} seconds")

    def spend(self, size: int) -> None:
        """Count memory that was taken, in characters or elements; and one step."""
        self._left -= size
        if self._left < 0:
            raise _exceeded("too much memory")
        self.step()

    def allow(self, size: int) -> None:
        """Refuse a value that would be larger than any may be, before it is made."""
        if size > self.largest:
            raise _exceeded(f"a value of more than {self.largest:,} characters")

    def keep(self, value: object) -> None:
        """Count a value that was just made of others, with its size when printed."""
        self.allow(self.weight(value))
        self.spend(_own_size(value))

    def weight(self, value: object) -> int:
        """Count the characters and elements in `value`, shared parts each time; stops if too many.

        Namespaces are refused: they could come to contain each other, so that they have no size.
        """
        total = 0
        pending = [value]
        while pending:
            part = pending.pop()
            total += 1 + _own_size(part)
            if total > self.largest:
                break
            if isinstance(part, dict):
                pending.extend(part)
                pending.extend(part.values())
            elif isinstance(part, (list, tuple)):
                pending.extend(part)
            elif isinstance(part, Namespace):
                raise TemplateError(
                    "the chat template prints a namespace or puts one into another value, "
                    "which is not allowed; use another template"
                )
        return total


def _own_size(value: object) -> int:
    if isinstance(value, (str, list, tuple, dict)):
        return len(value)
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise _exceeded(f"an integer of more than {MAX_INTEGER_BITS} bits")
    return 1


def _exceeded(what: str) -> TemplateError:
    return TemplateError(
        f"the chat template was stopped: it used {what}, more than any sound template needs; "
        "use another template, or generate from a plain prompt"
    )


def raise_exception(message: object) -> NoReturn:
    """Refuse the messages, as a template asks. Raises `RequestError`: the messages are at fault."""
    raise RequestError(f"the model's chat template refuses these messages: {str(message)[:500]}")


def strftime_now(pattern: str) -> str:
    """Return the local date and time, as `time.strftime` writes it."""
    short = len(pattern) <= MAX_NEEDLE
    _require(short and bool(_DATE.fullmatch(pattern)), "short date patterns without widths")
    return datetime.now().strftime(pattern)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON as transformers writes it: not escaped for HTML."""
    if indent is not None:
        _require(isinstance(indent, int) and indent <= 16, "an indentation of at most 16")
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if ensure_ascii:
        for private in current.get().private:  # they stand for ASCII characters
            text = text.replace(json.dumps(private)[1:-1], private)
    return text


def escape_html(value: object) -> Markup:
    """Return `value` with HTML's own characters escaped, those that a private character stands for too."""
    text = str(escape(value))
    for private, character in current.get().private.items():
        text = text.replace(private, str(escape(character)) if character in "<>&'\"" else private)
    return Markup(text)  # noqa: S704 - it was escaped above


def before_operator(operator: str, left: Any, right: Any) -> None:
    """Refuse an operation whose result would be too large."""
    allow = current.get().allow
    sized = (str, list, tuple)
    if operator == "*" and isinstance(left, sized) and isinstance(right, int):
        allow(current.get().weight(left) * right)
    elif operator == "*" and isinstance(right, sized) and isinstance(left, int):
        allow(current.get().weight(right) * left)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _require(left.bit_length() * abs(right) <= MAX_INTEGER_BITS, "a power that is not so large")
    elif operator == "%" and isinstance(left, str):
        _require(len(left) <= MAX_FORMAT, f"printf-style formats of at most {MAX_FORMAT} characters")
        _require(not _PADDING.search(left), f"fields of at most {MAX_FIELD} characters")
        allow(len(left) + left.count("%") * (current.get().weight(right) + MAX_FIELD))


def before_format(text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a ``str.format`` whose result could be too large."""
    fields = list(Formatter().parse(text))
    _require(not any(spec for _, _, spec, _ in fields), "format fields without a width")
    weight = current.get().weight([args, kwargs])
    current.get().allow(len(text) + len(fields) * weight)


def before_method(owner: object, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
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
            _check_join(owner, args[0])
        elif name == "replace" and len(args) > 1:
            _check_replace(owner, *args[:2])
    return args


def before_filter(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Refuse a filter whose result would be too large; as `before_method`."""
    options = args[1:] + tuple(kwargs.values())
    _check_search(name, options)
    if name in _WRITERS:
        current.get().allow(current.get().weight(args[0]))
    if name == "join":
        args = (list(args[0]), *args[1:])
        _check_join(str(next(iter(options), "")), args[0])
    elif name == "replace":
        _check_replace(str(args[0]), *options[:2])
    elif name in ("indent", "round"):
        sizes = [len(v) if isinstance(v, str) else abs(v) for v in options if _is_size(v)]
        _require(max(sizes, default=0) <= MAX_WIDTH, f"at most {MAX_WIDTH} in the filter {name}")
        if name == "indent":
            current.get().allow((str(args[0]).count("\n") + 1) * max(sizes, default=4))
    return args


def _is_size(value: object) -> bool:
    return isinstance(value, (int, str))


def _check_search(name: str, args: tuple[Any, ...]) -> None:
    if name in _SEARCHES and args and isinstance(args[0], str):
        _require(len(args[0]) <= MAX_NEEDLE, f"at most {MAX_NEEDLE} characters to {name}")


def _check_join(separator: str, items: list[Any]) -> None:
    budget = current.get()
    budget.allow(budget.weight(items) + len(separator) * len(items))


def _check_replace(text: str, old: Any, new: Any) -> None:
    times = text.count(str(old)) if old else len(text) + 1
    current.get().allow(len(text) + times * len(str(new)))


def _require(holds: bool, expected: str) -> None:
    if not holds:
        raise SecurityError(f"templates may use only {expected}")
