"""The seam between the engine and speculative decoding.

Owns the contract: when the engine asks for drafts, and what it reports back. Knows neither how tokens are drafted
nor which of them are worth a row; `miaotui.speculation` decides that. Invariant: a proposal changes when tokens
come, never which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from miaotui.backends.backend import Masks
from miaotui.backends.drafting import DraftRun, Quotes
from miaotui.engine.request import Request
from miaotui.schedule.plan import Draft, Plan


class SourceReport(NamedTuple):
    """Counts of one source of drafts since the start."""

    name: str
    drafts: int  # passes that verified a draft of it, counted for each request
    proposed: int  # tokens
    accepted: int  # tokens
    saved_s: float  # seconds, by the passes that were not needed, less the rows that were

    @property
    def mean_accepted(self) -> float:
        """Accepted tokens per draft."""
        return self.accepted / self.drafts if self.drafts else 0.0


class MultistepDraft(Protocol):
    """A run of several passes for the one running request; the backend drafts between the passes."""

    @property
    def passes(self) -> int:
        """Return the most passes of the run."""

    @property
    def max_tokens(self) -> int:
        """Return the most tokens that the run can bring."""

    @property
    def watch(self) -> Masks | None:
        """See `Backend.run_drafting`; None if the run need not call back in each pass."""

    @property
    def quote(self) -> Quotes:
        """See ``quotes`` of `Backend.run_drafting`."""

    def begin(self, position: int, max_tokens: int) -> DraftRun:
        """Prepare the run: up to ``max_tokens`` tokens after the newest one, which is at ``position``."""

    def sources(self, passes: int) -> Sequence[str]:
        """Return who proposed each token of the run that has ended, of ``passes`` passes; "" for the model's own."""


class Proposal(NamedTuple):
    """Drafts for the next step by request number; or a run that drafts by itself, and then no drafts."""

    drafts: Mapping[int, Draft]
    run: MultistepDraft | None = None
    allows_multistep: bool = True  # whether passes without drafts may follow each other in the step


class Speculator(Protocol):
    """Drafts for every step of one engine; used by the engine's thread alone, except `report`."""

    @property
    def computing_s(self) -> float:
        """Return seconds spent on logits of its own since the start."""

    def enter(self, request: Request) -> None:
        """Begin to draft for a request that was queued."""

    def leave(self, request: Request) -> None:
        """Forget a request that has ended."""

    def propose(self, prompt_rows: int, passes: int) -> Proposal:
        """Propose tokens for the next step.

        The step also computes about ``prompt_rows`` rows of prompts; a run may have up to ``passes`` passes.
        """

    def note(self, plan: Plan, chosen: Mapping[int, Sequence[int]], seconds: float, passes: int) -> None:
        """Learn from a step of ``passes`` passes that took ``seconds`` each and brought the ``chosen`` tokens."""

    def note_run(self, tokens: Sequence[int], passes: int) -> None:
        """Learn from a `Proposal.run` of ``passes`` passes, which brought ``tokens``."""

    def report(self) -> Sequence[SourceReport]:
        """Return counts of each source since the start; may be called from any thread."""
