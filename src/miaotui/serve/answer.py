"""Answers of a model as routes read them, whether the engine makes them now or a cache kept them.

Owns the two protocols between routes and what answers them. Knows no wire format, no engine and no cache. Invariant: a
route reads both kinds through these methods alone and never asks which kind it has.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from miaotui.types import Completion, Delta, Promise


class ModelAnswer(Protocol):
    """One answer: on its way, or whole."""

    @property
    def prompt_tokens(self) -> int:
        """Return tokens of the prompt."""

    @property
    def cached_tokens(self) -> int:
        """Return tokens of the prompt whose work was reused."""

    @property
    def promise(self) -> Promise:
        """Return the state of the answer's deadline."""

    def completion(self) -> Completion:
        """Return the whole answer once it has ended. Raises what it failed with."""


class AnswerBatch(Protocol):
    """All answers to one HTTP request, in the order of prompts, then of seeds."""

    @property
    def answers(self) -> Sequence[ModelAnswer]:
        """Return the answers."""

    def pieces(self, silence_s: float) -> AsyncGenerator[list[tuple[int, Delta]], None]:
        """Yield (index in ``answers``, piece) pairs as they come, and an empty list after ``silence_s`` without any.

        Use it in ``contextlib.aclosing``: closing it early cancels what still runs.
        """

    async def whole(self) -> list[Completion]:
        """Return all answers when they are whole. Raises what one of them failed with; leaving early cancels all."""

    def cancel(self) -> None:
        """Cancel what still runs."""
