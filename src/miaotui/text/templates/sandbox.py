"""Jinja's sandbox, with bounds: the environment in which chat templates run.

Owns what a template may do. Names, attributes and changes of data are guarded by Jinja's own
immutable sandbox; here are bounds on time and memory. Every construct that makes a value, loops or
compares is rewritten to count itself; filters and methods are those that templates need, and
the ones that multiply sizes are measured first. No thread, no signal: a template stops itself.
Source: https://jinja.palletsprojects.com/en/stable/sandbox/ and the conventions of transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, wraps
from types import BuiltinMethodType, FunctionType, GeneratorType, MethodType
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from miaotui.text.templates import checks
from miaotui.text.templates.checks import current

FILTERS = checks.names(
    "abs capitalize count d default dictsort e escape first float indent int items join last "
    "length list lower map max min reject rejectattr replace reverse round safe select selectattr "
    "sort string title trim unique upper"
)


@lru_cache(maxsize=1)
def environment() -> BoundedEnvironment:
    """Return the one environment; `budget.current` bounds each rendering."""
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
        known |= {"tojson": checks.tojson, "e": checks.escape_html, "escape": checks.escape_html}
        self.filters = {name: _bounded_filter(name, known[name]) for name in known} | _GUARDS
        tests: dict[str, Any] = self.tests
        self.tests = {name: _bounded_test(test) for name, test in tests.items()}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Rewriter().visit(Parser(self, source, name, filename).parse())
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Return the result of an arithmetic operation; refuse one whose result would be too large."""
        budget = current.get()
        budget.step()
        checks.before_operator(operator, left, right)
        result = super().call_binop(context, operator, left, right)
        _keep(result)
        return result

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Return the result of a call; refuse what templates may not call."""
        budget = current.get()
        budget.step()
        owner = getattr(__obj, "__self__", None)
        if isinstance(__obj, (BuiltinMethodType, MethodType)):
            args = checks.before_method(owner, __obj.__name__, args)
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
            checks.before_format(value.__self__, args, kwargs)
            return wrapped(*args, **kwargs)

        return bounded


_TYPES = (dict, Namespace)
_COMPILER_KEYWORDS = {"_loop_vars", "_block_vars"}  # Jinja adds these; no callee gets them


class _Rewriter(NodeTransformer):
    """Rewriter of templates: wraps everything that can take time or memory into the guards below."""

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:  # noqa: N802
        return nodes.Const(node.data, lineno=node.lineno)  # so that `_print` sees it

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = _guarded(node.iter, "bounded loop")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        parts = nodes.Tuple(node.nodes, "load", lineno=node.lineno)
        return _guarded(parts, "bounded concat")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        return node if node.ctx != "load" else self._guard_value(node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _guarded(node, "bounded part") if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _guarded(node, "bounded part")

    def _guard_value(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _guarded(node, "bounded value")

    visit_List = visit_Dict = _guard_value  # noqa: N815


def _guarded(node: nodes.Node, guard: str) -> nodes.Filter:
    return nodes.Filter(node, guard, [], [], None, None, lineno=node.lineno)


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


# Names with a space: no template can write them.
_GUARDS: dict[str, Callable[..., Any]] = {
    "bounded loop": _loop,
    "bounded value": _keep,
    "bounded concat": _concat,
    "bounded part": _part,
}


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    passed = 1 if hasattr(function, "jinja_pass_arg") else 0  # a context or environment goes first

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        values = checks.before_filter(name, args[passed:], kwargs)
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


class GenerationTag(Extension):
    """Tag ``{% generation %}``, which marks the model's own text for training; here it does nothing."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the tag's content."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
