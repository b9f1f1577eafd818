"""The seam between drafters and the controller: what a drafter proposes, and what it learns of requests.

Owns the contract, nothing else. Drafters know token ids; a head also knows the model's hidden states. Invariant: a
draft never decides. The model draws every token with its own noise of (seed, position), and a drafted token is
accepted if it is that very token; so an answer is the same bytes with any drafts or none. Verifying several tokens
in one pass follows Leviathan et al., "Fast inference from transformers via speculative decoding" (2023), without
the acceptance probabilities that would make the answer depend on the draft.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from miaotui.backends.backend import TokenChoice
from miaotui.backends.drafting import DraftRun
from miaotui.engine.constraint import Constraint


class Candidate(NamedTuple):
    """Tokens that may come next, and the evidence for them.

    ``evidence`` for the first token is a whole number from 1: for an index the number of tokens that match before
    it. Each token that is accepted is evidence for the next one: the second token counts as ``evidence + 1``, and
    so on. Of the places in the texts where the match occurs, ``agreeing`` go on with the same token and
    ``disagreeing`` with another. A draft head gives the evidence of each of its tokens in ``head_evidence``. If
    tokens from a text follow these, ``kinds`` gives the kind of each token (see `acceptance_rates`).
    """

    source: str  # one of `Drafter.sources`
    evidence: int
    tokens: Sequence[int]
    agreeing: int = 1
    disagreeing: int = 0
    head_evidence: Sequence[int] = ()
    kinds: Sequence[int] = ()


class DraftRequest(NamedTuple):
    """Request, as far as drafters know it."""

    number: int
    prompt: Sequence[int]
    max_tokens: int  # of the answer
    namespace: int = 0  # whose earlier answers it may see
    passages: Sequence[Sequence[int]] = ()  # texts that its answer may quote
    constraint: Constraint | None = None
    adapter: int = 0  # that the answer is made with; earlier answers are seen under the same one only


class Drafter(Protocol):
    """A source of candidates for many requests, known by number. Used by the engine's thread alone."""

    @property
    def sources(self) -> Sequence[str]:
        """Return names of where its candidates come from, for rates and reports; unique among all drafters."""

    @property
    def is_certain(self) -> bool:
        """Return whether no other drafter needs to be asked where this one has a candidate."""

    def enter(self, request: DraftRequest) -> bool:
        """Begin to draft for a request; False: it has no drafts for this one, and need not hear of it again."""

    def extend(self, number: int, tokens: Sequence[int]) -> None:
        """Note that its answer went on with ``tokens``."""

    def propose(self, number: int, after: Sequence[int] = ()) -> Sequence[Candidate]:
        """Return candidates for what follows now, or if ``after`` followed; at most one or a few from each source.

        The best one is verified as the trunk of a tree; another may become a branch beside it.
        """

    def leave(self, number: int, finished: bool) -> None:
        """Forget a request; only a ``finished`` answer is worth remembering."""


class HeadInput(NamedTuple):
    """Start of a head's draft: after ``token``, the newest, which no pass has computed yet."""

    row: int  # of the last pass, that the token was drawn from
    token: int
    position: int  # of the first token to be drafted
    choice: TokenChoice  # how the model will choose it


class HeadToken(NamedTuple):
    """A token that a head drafted, and the evidence for it: a whole number from 1."""

    token: int
    evidence: int


class Head(Protocol):
    """Drafts from the model's own hidden states, right after a pass, at some cost.

    Call `begin`, then `step` for one more token of each row, and `keep` between steps to go on with some rows.
    """

    @property
    def name(self) -> str:
        """Name of this source of drafts, for rates and reports."""

    @property
    def computing_s(self) -> float:
        """Return seconds spent in `step` since the start."""

    @property
    def draft_run(self) -> DraftRun | None:
        """Return the runs of passes in which this head drafts; None: it cannot draft within runs."""

    @property
    def most_rows(self) -> int:
        """Return the number of requests that it can draft for at once."""

    def begin(self, inputs: Sequence[HeadInput]) -> None:
        """Begin drafts, one for each input."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in ascending order."""

    def step(self) -> Sequence[HeadToken]:
        """Draft the next token of each row."""
