"""The seam through which a backend drafts: steps of a draft head, and runs of passes that draft by themselves.

Owns protocols and values only. Knows token ids and rows of the last pass, neither requests nor where chances and costs
come from. A backend without a draft head needs none of it (`Capabilities.draft_head`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from miaotui.backends.backend import Peak, TokenChoice

Quotes = Callable[[Sequence[int]], int]  # drafts from texts between two passes (see `Backend.run_drafting`)


class PolicyInputs(NamedTuple):
    """The numbers by which the draft policy (`kernels.draft.policy`) decides within a run."""

    rates: Sequence[float]  # [2 * EVIDENCE_CLASSES] acceptance rates of first and later tokens of a head
    mean_rates: Sequence[float]  # [2] acceptance rates of both, whatever the evidence
    costs: Sequence[float]  # [1 + MAX_DRAFT] costs of a pass with 0, 1, ... drafted rows
    head_step: float  # cost of a step of the head


class PassLog(NamedTuple):
    """The log of one pass of a run that drafts."""

    tokens: Sequence[int]  # drafted by the head
    evidence: Sequence[int]  # for each of them
    verified: int  # drafted tokens that had a row
    brought: int  # tokens of the pass
    is_quoted: bool  # whether the draft was from a text


class DraftResult(NamedTuple):
    """The outcome of `Backend.run_drafting`."""

    tokens: list[int]
    passes: int
    seconds: float
    broken: Peak | None  # that of a row after the tokens whose logits are not numbers


class DraftRun(Protocol):
    """A run of passes in which a head drafts; used by the engine's thread alone."""

    @property
    def is_quote_requested(self) -> bool:
        """Return whether `Quotes` is to be called before the next pass."""

    @property
    def room(self) -> int:
        """Return tokens that may be drafted now."""

    @property
    def row(self) -> int:
        """Return the row of the last pass that the newest token was drawn from."""

    @property
    def broken(self) -> int:
        """Return the row of the last pass whose logits are not numbers; -1: none."""

    def begin(self, row: int, token: int, position: int, most: int, inputs: PolicyInputs) -> None:
        """Prepare a run of up to ``most`` tokens after ``token``.

        ``token`` is at ``position`` and was drawn from ``row`` of the last pass.
        """

    def request_quote(self) -> None:
        """Let `Quotes` be called before the next pass."""

    def put(self, tokens: Sequence[int], chances: Sequence[float]) -> int:
        """Set the draft of the next pass, at most `room` tokens; returns their number.

        ``chances`` are the probabilities that all tokens up to each are accepted.
        """

    def log(self, passes: int) -> Iterable[PassLog]:
        """Return the log of each of the ``passes`` of the last run."""


class DraftHeadSteps(Protocol):
    """A draft head's arithmetic: several sequences side by side, one token more with each step."""

    @property
    def most_rows(self) -> int:
        """Sequences that it can draft for at once."""

    @property
    def draft_run(self) -> DraftRun | None:
        """Return the runs in which it drafts; None: it knows single steps only."""

    def begin(self, starts: Sequence[tuple[int, int]]) -> None:
        """Start from these rows of the model's last pass: the row, and the position of the token to be drafted."""

    def keep(self, depth: int, rows: Sequence[int]) -> None:
        """Keep some rows alone for the step of ``depth``, which is not the first."""

    def step(self, depth: int, rows: Sequence[tuple[int, int, TokenChoice]]) -> list[tuple[int, int]]:
        """Draft one token for each row; returns the tokens, each with its evidence (1 to `MAX_HEAD_EVIDENCE`).

        ``rows`` are the tokens before, the positions of those to be drafted, and how the model will choose them.
        """
