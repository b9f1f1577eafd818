"""The seam through which a draft head guesses: its steps, and runs of passes in which it guesses on the way.

Owns protocols and values only. Knows token ids and rows of the last pass, neither requests nor where chances come from.
A backend without a draft head needs none of it (`Capabilities.draft_head`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from miaotui.backends.backend import Peak, TokenChoice

Quotes = Callable[[Sequence[int]], int]  # see `Backend.run_drafting`


class Odds(NamedTuple):
    """Numbers that decide how deep a guess goes and how much of it is verified."""

    chances: Sequence[float]  # [2 * CLASSES] that first and deeper tokens hold, by class of evidence
    means: Sequence[float]  # [2] the same on the whole
    ratios: Sequence[float]  # what passes of 0, 1, ... rows cost
    share: float  # what a step of the head costs
    step_margin: float
    pass_margin: float


class Told(NamedTuple):
    """One pass of a run with guesses."""

    tokens: Sequence[int]  # guessed by the head
    evidence: Sequence[int]  # of each
    drafted: int  # tokens verified, guessed or quoted
    came: int  # tokens that the pass brought
    is_quoted: bool  # what was drafted is from a text


class DraftResult(NamedTuple):
    """The outcome of `Backend.run_drafting`."""

    tokens: list[int]
    passes: int
    seconds: float
    broken: Peak | None  # that of a row after the tokens whose logits are not numbers


class DraftRun(Protocol):
    """One head's runs; used by the engine's thread alone."""

    @property
    def is_wished(self) -> bool:
        """Whether `Quotes` will be asked before the next pass."""

    @property
    def room(self) -> int:
        """Tokens that may be drafted now."""

    @property
    def row(self) -> int:
        """The row of the last pass that the newest token was drawn from."""

    @property
    def broken(self) -> int:
        """The row of the last pass whose logits are not numbers; -1: none."""

    def set_out(self, row: int, token: int, position: int, most: int, odds: Odds) -> None:
        """Before a run: up to ``most`` tokens after ``token``, at ``position``, drawn from ``row`` of the last pass."""

    def wish(self) -> None:
        """Before the next pass, ask what a text goes on with."""

    def put(self, tokens: Sequence[int], chances: Sequence[float]) -> int:
        """A draft for the next pass: tokens, and how likely all up to each are; how many are taken."""

    def told(self, passes: int) -> Iterable[Told]:
        """The last run's passes."""


class DraftHeadSteps(Protocol):
    """A draft head's arithmetic: several sequences side by side, one token deeper with each step."""

    @property
    def most_rows(self) -> int:
        """Sequences that it can guess for at once."""

    @property
    def drafting(self) -> DraftRun | None:
        """Its guesses within runs of passes; None: it knows single steps only."""

    def begin(self, starts: Sequence[tuple[int, int]]) -> None:
        """Set out from these rows of the model's last pass: the row, and the position of the token to be guessed."""

    def keep(self, depth: int, rows: Sequence[int]) -> None:
        """Let the step of ``depth``, which is not the first, go on with some rows alone."""

    def step(self, depth: int, rows: Sequence[tuple[int, int, TokenChoice]]) -> list[tuple[int, float]]:
        """One token deeper: tokens, the positions of those to be guessed, and how they will be chosen.

        Returns each guess with its lead over the next best, in octaves.
        """
