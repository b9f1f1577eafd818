"""Constraints as plain data, so that an engine in another process can make them again.

Owns the shapes: a grammar's own text, the marker that it waits for, the thought before it. Invariant: a constraint that
is made again allows what the first one allowed when its answer began, whatever that one has accepted since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from miaotui.engine.constraint import Constraint
from miaotui.engine.grammar.constraint import AfterMarker, GrammarConstraint, Grammars
from miaotui.engine.grammar.reasoning import ReasoningConstraint, ReasoningTokens
from miaotui.engine.grammar.source import Grammar, bounded
from miaotui.errors import RequestError

Described = dict[str, Any]


def describe(constraint: Constraint) -> Described:
    """Return a constraint as JSON values. Raises `RequestError` for one of another make."""
    if isinstance(constraint, GrammarConstraint):
        return {"grammar": constraint.grammar.text, "kind": constraint.grammar.kind}
    if isinstance(constraint, AfterMarker):
        marker = constraint.marker
        return {
            "after": marker if isinstance(marker, int) else marker.decode("latin-1"),
            "inner": describe(constraint.inner),
        }
    if isinstance(constraint, ReasoningConstraint):
        tokens, budget, inner = constraint.parts
        return {
            "begin": list(tokens.begin),
            "answer": list(tokens.answer),
            "end": tokens.end.decode("latin-1"),
            "closing": list(tokens.closing),
            "open": constraint.began_open,
            "budget": budget,
            "inner": None if inner is None else describe(inner),
        }
    raise RequestError(f"a {type(constraint).__name__} cannot be sent to another process")


def restore(described: Mapping[str, Any], grammars: Grammars, spell: Callable[[int], bytes]) -> Constraint:
    """Return the constraint that was described; ``spell`` gives the bytes of a token.

    Raises `RequestError` for a grammar that is faulty or too complex, and for what is no description.
    """
    try:
        return _restored(described, grammars, spell)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"the description of a grammar is damaged: {type(error).__name__}: {error}") from error


def _restored(described: Mapping[str, Any], grammars: Grammars, spell: Callable[[int], bytes]) -> Constraint:
    if "grammar" in described:
        text, kind = bounded(described["grammar"]).text, described["kind"]
        if kind not in ("lark", "made"):
            raise ValueError(f"unknown kind {kind!r:.40}")
        return grammars.constraint(Grammar(text, kind))
    inner = described["inner"]
    if "after" in described:
        marker = described["after"]
        found = _restored(inner, grammars, spell)
        if not isinstance(found, GrammarConstraint):
            raise TypeError("a marker stands before a grammar alone")
        return grammars.after(marker if isinstance(marker, int) else marker.encode("latin-1"), found)
    tokens = ReasoningTokens(
        tuple(described["begin"]),
        tuple(described["answer"]),
        described["end"].encode("latin-1"),
        tuple(described["closing"]),
        grammars.vocab_size,
        spell,
    )
    after = None if inner is None else _restored(inner, grammars, spell)
    return ReasoningConstraint(tokens, bool(described["open"]), described["budget"], after)
