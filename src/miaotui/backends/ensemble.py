"""Several models as one backend: each computes the same rows, and their probabilities are averaged.

Owns the average and the choice after it. Knows nothing of what the members compute with. Invariant: a row's result
depends on the members' logits of this row alone, so that answers do not depend on what runs beside them.

Source: a product of experts would multiply; this is the mixture ``p = sum(w p_i)`` (Jacobs et al. 1991).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import (
    NO_ROW_STATES,
    Backend,
    BackendIdentity,
    BackendStats,
    Capabilities,
    Floats,
    Masks,
    NoDraftHead,
    Peak,
    RowStates,
    Sampling,
    StepResult,
    TokenChoice,
    lacking,
    probe_chunk,
    refuse_unable,
)
from miaotui.backends.reference.cache import planned_rows
from miaotui.backends.reference.sampling import ReferenceChoice, choose
from miaotui.backends.sampling import Distribution
from miaotui.errors import EngineError
from miaotui.model.adapters.adapter import LowRankPair
from miaotui.schedule.plan import Plan
from miaotui.types import Progress

LEAST = np.float32(1e-38)  # probability below which tokens are alike


@dataclass(frozen=True)
class EnsembleSampling:
    """Choice from averaged rows by the first member's way to draw; it stands in no compiled table."""

    member: Sampling

    def choice(self, shape: Distribution | None, seed: int, ends: Sequence[int]) -> TokenChoice:
        """Return a way to choose after the average."""
        return ReferenceChoice(shape, seed, ends)

    def draw(self, row: Floats, peak: float, shape: Distribution, key: int) -> int:
        """See `Sampling.draw`."""
        return self.member.draw(row, peak, shape, key)

    def best(self, row: Floats, n: int) -> list[int]:
        """See `Sampling.best`."""
        return self.member.best(row, n)

    def restrict(self, row: Floats, words: NDArray[np.uint32]) -> None:
        """See `Sampling.restrict`."""
        self.member.restrict(row, words)

    def log_total(self, row: Floats, peak: float) -> float:
        """See `Sampling.log_total`."""
        return self.member.log_total(row, peak)


class EnsembleBackend(NoDraftHead):
    """A `Backend` over members with weights that sum to 1. Raises `EngineError` for members of other sizes.

    ``keys`` are the members' digests: they belong to what decides an answer's bytes.
    """

    def __init__(self, members: Sequence[Backend], weights: Sequence[float], keys: Sequence[str]) -> None:
        first = members[0].limits
        for each in members:
            if (each.limits.context, each.limits.pages, each.limits.rows) != (first.context, first.pages, first.rows):
                raise EngineError("the members of an ensemble have other sizes of context, pages or passes")
        self.members, self._weights = tuple(members), np.array(weights, np.float64)
        logits, drafts = (min(getattr(each.limits, name) for each in members) for name in ("logits_rows", "draft_rows"))
        self.limits = replace(first, logits_rows=logits, draft_rows=drafts, passes=1, run_tokens=1)
        self.sampling: Sampling = EnsembleSampling(members[0].sampling)
        able = [each.capabilities for each in members]
        self.capabilities = Capabilities(
            same_bytes=all(each.same_bytes for each in able),
            promises=all(each.promises for each in able),
            drafts=all(each.drafts for each in able),
        )
        parts = [
            f"{weight:.9g} {key} {each.identity.name} {each.identity.arithmetic}"
            for weight, key, each in zip(weights, keys, members, strict=True)
        ]
        formats = tuple(sorted({form for each in members for form in each.identity.formats}))
        self.identity = BackendIdentity("ensemble", formats, members[0].identity.kv, " + ".join(parts))
        self._logits = np.empty((logits, first.vocab_size), np.float32)

    @property
    def is_tuning(self) -> bool:
        """Return whether a member tries how many threads are faster."""
        return any(each.is_tuning for each in self.members)

    def run(
        self,
        plan: Plan,
        choices: Sequence[TokenChoice | None] = (),
        masks: Masks | None = None,
        states: RowStates = NO_ROW_STATES,
    ) -> StepResult:
        """Run one pass of every member, average, and choose (see `Backend.run`)."""
        refuse_unable(self, plan, states)
        begin_s = time.perf_counter()
        single = Plan(plan.chunks)
        rows = [each.run(single).logits for each in self.members]
        logits = self._logits[: len(rows[0])]
        for number in range(len(logits)):
            average([each[number, : logits.shape[1]] for each in rows], self._weights, logits[number])
        if masks is not None:
            masks([])
        own = cast("Sequence[ReferenceChoice | None]", choices) or [None] * len(plan.chunks)
        return StepResult(self._chosen(plan, logits, own), logits, time.perf_counter() - begin_s)

    def _chosen(self, plan: Plan, logits: Floats, choices: Sequence[ReferenceChoice | None]) -> list[Peak]:
        chosen: list[Peak] = []
        for chunk, choice in zip(plan.chunks, choices, strict=True):
            last = len(chunk.tokens) - chunk.n_after
            count = chunk.n_logits + chunk.n_scored
            for row in planned_rows(chunk)[last - count : last] if count else ():
                chosen.append(choose(logits[len(chosen)], row.position + 1, choice, self.sampling))
        return chosen

    def add_adapter(self, number: int, pairs: Mapping[str, LowRankPair], progress: Progress | None = None) -> None:
        """Refuse: an adapter belongs to one model. Raises `RequestError`."""
        raise lacking(self, "adapters")

    def remove_adapter(self, number: int) -> None:
        """Do nothing: there is none."""

    def read_cache(self, layer: int, pages: Sequence[int], count: int) -> NDArray[np.float16]:
        """Return keys and values of the first member."""
        return self.members[0].read_cache(layer, pages, count)

    def stats(self) -> BackendStats:
        """Return the members' numbers together."""
        each = [member.stats() for member in self.members]
        return BackendStats(
            max(one.threads for one in each),
            max(one.threads_live for one in each),
            sum(one.weight_bytes for one in each),
            sum(one.kv_token_bytes for one in each),
        )

    def probe(self) -> None:
        """Run one row of no sequence through every member. Raises what is wrong."""
        self.run(Plan((probe_chunk(self.limits, (0,)),)))

    def halt(self) -> None:
        """Do nothing: a run is one pass."""

    def close(self) -> None:
        """Close every member."""
        for each in self.members:
            each.close()


def average(rows: Sequence[Floats], weights: NDArray[np.float64], out: Floats) -> None:
    """Write the logarithm of the weighted mean of the probabilities of logits ``rows [vocab]`` into ``out [vocab]``.

    Logits that are no numbers stay none.
    """
    out[:] = 0
    for row, weight in zip(rows, weights, strict=True):
        powers = np.exp(row - row.max())
        out += powers * np.float32(weight / powers.sum(dtype=np.float64))
    np.maximum(out, LEAST, out=out)
    np.log(out, out=out)
