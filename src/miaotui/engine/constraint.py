"""Constraint: the seam between the sampler and a grammar.

Owns the contract alone. A constraint belongs to one request, knows token ids only, and is used by the thread that
steps the engine. Invariant: it narrows the choice; the noise of (seed, position) still makes it, so a constrained
answer is as reproducible as a free one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from miaotui.engine.sampling.sampler import Mask
from miaotui.errors import RequestError
from miaotui.types import SamplingParams


class Constraint(Protocol):
    """A grammar's state in one answer."""

    @property
    def decides_end(self) -> bool:
        """Return whether it says where the answer ends, so that no parameter may forbid the end there."""

    def mask(self) -> Mask | None:
        """Return the tokens that may come next (see `SequenceSampler.pick`); None when all may.

        End tokens are allowed exactly where the answer may end. Read before the next call.
        """

    def accept(self, token_id: int) -> None:
        """Return the answer went on with ``token_id``, which the last mask allowed."""

    def forced(self) -> Sequence[int]:
        """Return tokens that must come next, as far as they are known now; often none.

        A hint: they are verified like any draft, under the masks.
        """


def check_endings(params: SamplingParams) -> None:
    """Raises `RequestError` for parameters that forbid the end where a grammar demands it."""
    if params.ignore_eos or params.min_tokens:
        name = "ignore_eos" if params.ignore_eos else "min_tokens"
        raise RequestError(
            f"{name} does not go with a grammar, a JSON schema or tools, which say themselves "
            f"where an answer ends: leave {name} out"
        )
