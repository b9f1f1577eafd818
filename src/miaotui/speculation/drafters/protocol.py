"""Proposals for the next tokens of an answer, and the seam through which they come.

Owns the contract between those who guess and the controller (``speculation/controller.py``), nothing
else. Knows token ids, not logits. Invariant: a guess never decides. The model draws every token
with its own noise of (seed, position), and a guessed one is kept if it is that very token; so an
answer is the same bytes with any guesses or none. Verifying several tokens in one pass follows
Leviathan et al., "Fast inference from transformers via speculative decoding" (2023), without the
acceptance probabilities that would make the answer depend on the draft.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from miaotui.backends.backend import TokenChoice
from miaotui.backends.drafting import DraftRun


class Guess(NamedTuple):
    """What may come next, and how well it is founded.

    ``length`` is the evidence that the source has for the first token, a whole number from 1: for
    an index the tokens matched before it. A token that holds is evidence for the next one: the
    second token counts as ``length + 1``, and so on. Of the
    ``places`` and ``rivals`` where the same happened before, the former went on like this, the latter
    otherwise. A draft head says how well each of its tokens is founded in ``evidence``; what follows them may come
    from elsewhere, and then ``kinds`` say of what kind each token is (see `survival`).
    """

    source: int  # index into `Drafter.sources`
    length: int
    tokens: Sequence[int]
    places: int = 1
    rivals: int = 0
    evidence: Sequence[int] = ()
    kinds: Sequence[int] = ()


class Drafter(Protocol):
    """Guesses for many requests at once, known by number. Used by the engine's thread alone."""

    @property
    def sources(self) -> Sequence[str]:
        """The names of where guesses come from, for reports."""

    def enter(
        self, number: int, prompt: Sequence[int], most: int, namespace: int, passages: Sequence[Sequence[int]]
    ) -> None:
        """A request begins: its prompt, the most tokens it may get, whose past it may see, and
        passages that its answer may quote.
        """

    def extend(self, number: int, tokens: Sequence[int]) -> None:
        """Its answer went on with ``tokens``."""

    def guess(self, number: int, after: Sequence[int] = ()) -> Sequence[Guess]:
        """At most one guess from each source, for what follows now, or if ``after`` followed.

        The best one is followed as a line; another may be tried beside it, as a branch.
        """

    def leave(self, number: int, finished: bool) -> None:
        """It is over; only a ``finished`` answer is worth remembering."""


class Lead(NamedTuple):
    """Where a head's guess sets out: after ``token``, the newest, which no pass has computed yet."""

    row: int  # of the last pass: the one that the token was drawn from
    token: int
    position: int  # of the token to be guessed
    choice: TokenChoice  # how it will be chosen


class HeadToken(NamedTuple):
    """One guessed token, and the evidence for it: a whole number from 1."""

    token: int
    evidence: int


class Head(Protocol):
    """Guesses computed from the model's own hidden states, right after a pass, at some cost.

    `begin`, then `deepen` for one more token of each row, `keep` for some rows alone.
    """

    @property
    def name(self) -> str:
        """Of this source of guesses, for reports."""

    @property
    def computing_s(self) -> float:
        """Seconds spent in `deepen` since the start."""

    @property
    def guessing(self) -> DraftRun | None:
        """Guesses within runs of passes; None: it has to be asked for each."""

    @property
    def most_rows(self) -> int:
        """How many requests it can guess for at once."""

    def begin(self, leads: Sequence[Lead]) -> None:
        """Start anew."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone; ascending."""

    def deepen(self) -> Sequence[HeadToken]:
        """The next token of each row."""
