"""Output format of an answer: the constraint on its tokens and the shaper of its text.

Owns the seam between a chat request's ``response_format`` and ``tools`` and its answers. Knows no stream and no HTTP.
Invariant: each of n answers gets a constraint and a shaper of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from miaotui.engine.constraint import Constraint
from miaotui.serve.wire.fields import Json


class OutputShaper(Protocol):
    """Turns the text of one answer into a message's content and tool calls, piece by piece."""

    def push(self, text: str) -> Sequence[Json]:
        """Return what these characters add to the message: OpenAI's delta objects, possibly none."""

    def finish(self, reason: str) -> tuple[Sequence[Json], str]:
        """Return what was held back, and the finish reason to tell."""

    def message(self) -> Json:
        """Return the whole message, after `finish`: role, content, and tool calls if there are any."""


@dataclass(frozen=True)
class OutputFormat:
    """Makes the constraint and the shaper of one answer; None: none is needed."""

    constraint: Callable[[], Constraint | None] = lambda: None
    shaper: Callable[[], OutputShaper | None] = lambda: None


FREE = OutputFormat()
