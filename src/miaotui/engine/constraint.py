"""What may come next: the seam between the sampler and a grammar.

Owns nothing but the contract. A constraint belongs to one request, knows token ids alone, and is
used by the thread that steps the engine. Invariant: it narrows the choice; the noise of (seed,
position) still makes it, so a constrained answer is as reproducible as a free one.
"""

from __future__ import annotations

from typing import Protocol

from miaotui.engine.sampler import Mask


class Constraint(Protocol):
    """A grammar's state in one answer."""

    def mask(self) -> Mask | None:
        """The tokens that may come next (see `SequenceSampler.pick`); None when all may.

        End tokens are allowed exactly where the answer may end. Read before the next call.
        """

    def accept(self, token_id: int) -> None:
        """The answer went on with ``token_id``, which the last mask allowed."""
