"""Form of an answer: the constraint of its tokens, and the syntax of its text.

Owns the record that a request carries to its answers. Knows no stream and no HTTP. Invariant: each of n answers gets a
constraint of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from miaotui.engine.constraint import Constraint
from miaotui.text.answers import AnswerSyntax


@dataclass(frozen=True)
class OutputFormat:
    """Maker of the constraint of one answer, and its syntax. ``syntax`` None: the answer is text alone."""

    constraint: Callable[[], Constraint | None] = lambda: None
    syntax: AnswerSyntax | None = None


FREE = OutputFormat()
