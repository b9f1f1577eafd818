"""Rewrites chat templates while they are compiled: every construct that takes time or memory gets a guard.

Owns the places of the guards, and the tag ``generation``. Does not know how a guard counts; the sandbox does.
Invariant: no construct that makes a value, loops, slices or compares is left without a guard. Guards are filters whose
names have a space, so that no template can write or replace them.
"""

from __future__ import annotations

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

LOOP, VALUE, CONCAT, PART = "bounded loop", "bounded value", "bounded concat", "bounded part"


class _GuardInserter(NodeTransformer):
    """Rewriter of templates: wraps everything that can take time or memory into the guards."""

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:  # noqa: N802
        return nodes.Const(node.data, lineno=node.lineno)  # so that `_print` sees it

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = _guarded(node.iter, LOOP)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        parts = nodes.Tuple(node.nodes, "load", lineno=node.lineno)
        return _guarded(parts, CONCAT)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        return node if node.ctx != "load" else self._guard_value(node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _guarded(node, PART) if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _guarded(node, PART)

    def _guard_value(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _guarded(node, VALUE)

    visit_List = visit_Dict = _guard_value  # noqa: N815


def _guarded(node: nodes.Node, guard: str) -> nodes.Filter:
    return nodes.Filter(node, guard, [], [], None, None, lineno=node.lineno)


def with_guards(template: nodes.Template) -> nodes.Template:
    """Return a parsed template with a guard around everything that can take time or memory."""
    guarded: nodes.Template = _GuardInserter().visit(template)
    return guarded


class GenerationTag(Extension):
    """Tag ``{% generation %}``, which marks the model's own text for training; here it does nothing."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the tag's content."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
