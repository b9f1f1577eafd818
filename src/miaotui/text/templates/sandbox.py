"""Chat templates compiled and run in Jinja's sandbox, with bounds: the environment, and the budget of one rendering.

Owns what a template may do. Knows no roles and no tokens. Names, attributes and changes of data are guarded by Jinja's
own immutable sandbox; here are bounds on time, memory and the size of any one value. Every construct that makes a
value, loops or compares counts itself (`rewriting` puts the guards in); filters and methods are those that templates
need, and the ones that multiply sizes are measured first (`checks`). No thread, no signal: a template stops itself.
Invariants: a template, however hostile, ends within seconds in a text of bounded size or in a `TemplateError`; a value
whose size was allowed can be printed, compared or sorted in about the time its size suggests.
Source: https://jinja.palletsprojects.com/en/stable/sandbox/ and the conventions of transformers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache, wraps
from types import BuiltinMethodType, FunctionType, GeneratorType, MethodType
from typing import Any

from jinja2 import Template, TemplateSyntaxError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from markupsafe import Markup, escape

from miaotui.errors import MiaotuiError, RequestError, TemplateError
from miaotui.text.templates import checks
from miaotui.text.templates.rewriting import CONCAT, LOOP, PART, VALUE, GenerationTag, with_guards

MAX_SOURCE_BYTES = 64 << 10
REMEDY = "use another template, or generate from a plain prompt"
FREE_CHARACTERS = 1 << 20  # any template may use so many
VALUE_FACTOR = 2  # one value may be this many times as large as the input, and
TOTAL_FACTOR = 32  # all values together this many times
current: ContextVar[Budget] = ContextVar("template_budget")
_NOTHING: Mapping[str, str] = {}

FILTERS = checks.names(
    "abs capitalize count d default dictsort e escape first float indent int items join last "
    "length list lower map max min reject rejectattr replace reverse round safe select selectattr "
    "sort string title trim unique upper"
)


class CompiledTemplate:
    """One template, ready to run. Safe to use from several threads.

    `constants`: the texts that it writes or looks for. Raises `TemplateError` for a faulty `source`.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], limit_s: float) -> None:
        self.source = source
        self._tokens, self._limit_s = tokens, limit_s
        self._template, self.constants = _compile(source)

    def render(self, values: Mapping[str, Any], private: Mapping[str, str] = _NOTHING) -> str:
        """Return the prompt for messages that have been read, tools and options.

        `private`: characters in `values` and those they stand for, see `escaping`. Raises `TemplateError`
        if the template fails or exceeds its bounds, and `RequestError` for messages that it refuses.
        """
        token = current.set(Budget(_json_size(values), self._limit_s, private))
        try:
            return self._template.render({**self._tokens, **values})
        except MiaotuiError:
            raise
        except Exception as error:
            raise TemplateError(f"the chat template failed: {_say(error)}; {REMEDY}") from error
        finally:
            current.reset(token)


def _compile(source: str) -> tuple[Template, frozenset[str]]:
    size = len(source.encode("utf-8", "replace"))
    if size > MAX_SOURCE_BYTES:
        raise TemplateError(f"the chat template has {size:,} bytes, more than {MAX_SOURCE_BYTES:,}; {REMEDY}")
    try:
        tree = environment().parse(source)
        constants = frozenset(node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str))
        return environment().from_string(tree), constants
    except TemplateSyntaxError as error:
        where = f"at line {error.lineno}"
        raise TemplateError(f"faulty chat template {where}: {error.message}; {REMEDY}") from error
    except Exception as error:  # too deeply nested for Jinja or for Python's own compiler
        raise TemplateError(f"faulty chat template: {_say(error)}; {REMEDY}") from error


def _json_size(values: Mapping[str, Any]) -> int:
    """Return the characters of `values` as JSON. Templates get data, not objects."""
    try:
        return len(json.dumps(values, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"messages, tools and template options must be JSON data: {_say(error)}") from error


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:500]}"


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
    if isinstance(value, int) and value.bit_length() > checks.MAX_INTEGER_BITS:
        raise _exceeded(f"an integer of more than {checks.MAX_INTEGER_BITS} bits")
    return 1


def _exceeded(what: str) -> TemplateError:
    return TemplateError(f"the chat template was stopped: it used {what}, more than any sound template needs; {REMEDY}")


@lru_cache(maxsize=1)
def environment() -> BoundedEnvironment:
    """Return the one environment; `current` bounds each rendering."""
    return BoundedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,  # nothing is computed while compiling
        finalize=_print,
        extensions=["jinja2.ext.loopcontrols", GenerationTag],
    )


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """An immutable sandbox whose templates stop when their budget is used up."""

    intercepted_binops = checks.names("+ - * / // % **")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.globals = {
            "range": self.globals["range"],
            "dict": dict,
            "namespace": Namespace,
            "raise_exception": checks.raise_exception,
            "strftime_now": checks.strftime_now,
        }
        known = {name: self.filters[name] for name in FILTERS}
        known |= {"tojson": _tojson, "e": _escape_html, "escape": _escape_html}
        self.filters = {name: _bounded_filter(name, known[name]) for name in known} | _GUARDS
        tests: dict[str, Any] = self.tests
        self.tests = {name: _bounded_test(test) for name, test in tests.items()}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return with_guards(Parser(self, source, name, filename).parse())

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Return the result of an arithmetic operation; refuse one whose result would be too large."""
        budget = current.get()
        budget.step()
        if operator in checks.GROWING:
            checks.before_operator(budget, operator, left, right)
        result = super().call_binop(context, operator, left, right)
        _keep(result)
        return result

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Return the result of a call; refuse what templates may not call."""
        budget = current.get()
        budget.step()
        owner = getattr(__obj, "__self__", None)
        if isinstance(__obj, (BuiltinMethodType, MethodType)):
            args = checks.before_method(budget, owner, __obj.__name__, args)
        elif isinstance(__obj, LoopContext):  # a recursive loop goes down one level
            args = (_loop(args[0]), *args[1:])
        elif not isinstance(__obj, (Macro, FunctionType, Undefined)) and __obj not in _TYPES:
            raise SecurityError(f"{type(__obj).__name__} may not be called")
        named = (value for name, value in kwargs.items() if name not in _COMPILER_KEYWORDS)
        for value in (*args, *named):
            if not isinstance(value, (Namespace, _Loop)):
                budget.allow(budget.weight(value))
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(owner, dict) and __obj.__name__ != "get":
            result = list(result)  # views hide how large they are
        if isinstance(result, (str, list, tuple, dict)):
            _keep(result)
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return `str.format` as Jinja makes it safe, measured before it runs."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            checks.before_format(current.get(), value.__self__, args, kwargs)
            return wrapped(*args, **kwargs)

        return bounded


_TYPES = (dict, Namespace)
_COMPILER_KEYWORDS = {"_loop_vars", "_block_vars"}  # Jinja adds these; no callee gets them


class _Loop:
    """Items of a loop: counts each turn, and knows its length if the original did."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        step = current.get().step
        for item in self._items:
            step()
            yield item

    def __len__(self) -> int:
        return len(self._items)


def _loop(items: Any) -> _Loop:
    return items if isinstance(items, _Loop) else _Loop(items)


def _keep(value: Any) -> Any:
    current.get().keep(value)
    return value


def _part(value: Any) -> Any:
    """Count a slice or the result of a comparison, which is no larger than its source."""
    current.get().spend(len(value) if isinstance(value, (str, list, tuple)) else 1)
    return value


def _concat(values: tuple[Any, ...]) -> str:
    text = "".join(map(str, _keep(values)))
    current.get().keep(text)
    return text


@pass_context
def _print(context: Context, value: Any) -> str:
    """Return the text that ``{{ value }}`` and plain text write. The context keeps Jinja from an early call."""
    budget = current.get()
    budget.allow(budget.weight(value))
    text = str(value)
    budget.spend(len(text))
    return text


_GUARDS: dict[str, Callable[..., Any]] = {LOOP: _loop, VALUE: _keep, CONCAT: _concat, PART: _part}


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON as transformers writes it: not escaped for HTML."""
    if indent is not None:
        checks.require(isinstance(indent, int) and indent <= 16, "an indentation of at most 16")
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if ensure_ascii:
        for private in current.get().private:  # they stand for ASCII characters
            text = text.replace(json.dumps(private)[1:-1], private)
    return text


def _escape_html(value: object) -> Markup:
    """Return `value` with HTML's own characters escaped, those that a private character stands for too."""
    text = str(escape(value))
    for private, character in current.get().private.items():
        text = text.replace(private, str(escape(character)) if character in "<>&'\"" else private)
    return Markup(text)  # noqa: S704 - it was escaped above


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    passed = 1 if hasattr(function, "jinja_pass_arg") else 0  # a context or environment goes first

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        values = checks.before_filter(current.get(), name, args[passed:], kwargs)
        result = function(*args[:passed], *values, **kwargs)
        if isinstance(result, (GeneratorType, reversed)) or type(result).__name__ in _LAZY:
            result = list(_Loop(result))
            current.get().spend(len(result))
            return iter(result)  # used up once, and true when empty, as Jinja's are
        return _part(result)

    return bounded


_LAZY = {"list_reverseiterator", "map", "filter"}


def _bounded_test(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        current.get().step()
        return function(*args, **kwargs)

    return bounded
