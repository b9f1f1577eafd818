"""The policy of drafts: which drafted tokens are worth a row of the next pass, and which a branch.

Owns the table through which the kernels of `kernels.draft.policy` are called (the rule and its constants stand there),
the costs of passes by their number of rows and by branches, and the tree of two candidates. Knows neither drafters nor
requests. Invariants: a run of passes that drafts by itself (`MultistepDrafting`) decides by the same function; more
rows never cost less; a branch is added only to a trunk that pays for itself, and must pay for itself as well. Costs
decide speed alone, so a clock may enter here.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

from miaotui.kernels.draft import policy_fields as pf
from miaotui.kernels.runtime import compiled
from miaotui.kernels.runtime.thread_pool import address_of, aligned_int64, fields_of
from miaotui.schedule.plan import DraftTree
from miaotui.speculation.acceptance_rates import BranchRate, RequestRecord, cumulative_chances, kinds_of
from miaotui.speculation.drafters.protocol import Candidate

KERNELS = ("draft.policy:rows", "draft.policy:step")  # to prepare before the first request
MAX_CHANCES = pf.MAX_CHANCES
MAX_ROWS = 128  # ratios are kept for so many; beyond, each row costs the same again
_START = (1.0, 1.05, 1.11, 1.18, 1.42, 1.47, 1.55, 1.65)  # rows 1 to 8, before anything is measured
_SLOPE = 0.13  # of each row after that
_FAST, _SLOW, _NEAR = 0.2, 0.03, 0.01  # shares of a surprise that go into the scale, the ratio and its neighbours
_MAX_SURPRISE = 2.0
_START_WEIGHT, _MAX_WEIGHT = 1.0, 100.0  # measurements
_FIRST_COST, _MAX_COST = 0.05, 1.0  # of a branch, in passes of one row


class DraftPolicy:
    """One engine's policy; used by the engine's thread alone."""

    def __init__(self) -> None:
        table = aligned_int64(pf.POLICY_FIELDS)
        self._address = address_of(table)
        self._fields, self._numbers = fields_of(table), fields_of(table).cast("B").cast("d")

    def rows_worth(
        self,
        chances: Sequence[float],
        costs: Sequence[float],
        gain: float,
        margin: float = pf.PASS_MARGIN,
        extra: float = 0.0,
    ) -> tuple[int, float]:
        """Choose how many drafted tokens get a row, and tell the tokens per cost that the pass then brings.

        ``chances`` are the probabilities that the tokens are accepted, in descending order, of which the first
        `MAX_CHANCES` count. ``costs`` are those of the pass with 0, 1, ... drafted rows, one more than chances;
        ``extra`` is added if there are any. Without drafts the pass brings ``gain`` tokens; with them it must bring
        ``margin`` times as many per cost.
        """
        numbers, count = self._numbers, min(len(chances), pf.MAX_CHANCES)
        self._fields[pf.WORTH_COUNT] = count
        numbers[pf.WORTH_GAIN], numbers[pf.WORTH_MARGIN], numbers[pf.WORTH_EXTRA] = gain, margin, extra
        numbers[pf.WORTH_CHANCES : pf.WORTH_CHANCES + count] = array("d", chances[:count])
        numbers[pf.WORTH_COSTS : pf.WORTH_COSTS + count + 1] = array("d", costs[: count + 1])
        return _rows()(self._address), numbers[pf.WORTH_SPEED]

    def step_worth(self, tokens: float, price: float, gain: float, cost: float, margin: float = pf.STEP_MARGIN) -> bool:
        """Tell whether ``tokens`` more are worth ``price``; without them the pass brings ``gain`` for ``cost``."""
        numbers = self._numbers
        numbers[pf.WORTH_GAIN], numbers[pf.WORTH_MARGIN] = gain, margin
        numbers[pf.STEP_TOKENS], numbers[pf.STEP_PRICE], numbers[pf.STEP_COST] = tokens, price, cost
        return bool(_step()(self._address))


@functools.cache
def _rows() -> Callable[..., int]:
    return compiled.function(KERNELS[0], arguments=1, brief=True)


@functools.cache
def _step() -> Callable[..., int]:
    return compiled.function(KERNELS[1], arguments=1, brief=True)


class RowCost:
    """Relative costs of passes; `note` learns from one pass."""

    def __init__(self) -> None:
        more = range(1, MAX_ROWS - len(_START) + 1)
        self._ratios = [0.0, *_START, *(_START[-1] + _SLOPE * row for row in more)]
        self._weights = [_START_WEIGHT] * len(self._ratios)
        self._scale_s = 0.0  # seconds of a pass of ratio 1, lately; 0: no pass was measured

    def note(self, rows: int, seconds: float) -> None:
        """Learn that a pass of ``rows`` rows took ``seconds``, with the Python around it."""
        if seconds <= 0.0 or not 0 < rows <= MAX_ROWS:
            return
        if self._scale_s == 0.0:
            self._scale_s = seconds / self._ratios[rows]
            return
        surprise = seconds / (self._scale_s * self._ratios[rows])
        surprise = min(max(surprise, 1 / _MAX_SURPRISE), _MAX_SURPRISE)
        more = surprise - 1.0 if surprise < 1.0 else 1.0 - 1.0 / surprise  # twice undoes half
        self._scale_s *= 1.0 + _FAST * more
        first, last = max(rows - 1, 1), min(rows + 1, MAX_ROWS)
        for near in range(first, last + 1):
            share = _SLOW if near == rows else _NEAR
            self._ratios[near] *= 1.0 + share * more
            self._weights[near] = min(self._weights[near] + share / _SLOW, _MAX_WEIGHT)
        pool_violators(self._ratios, self._weights, first, last)

    def ratio(self, rows: int) -> float:
        """Relative cost of a pass (arbitrary units)."""
        if rows <= MAX_ROWS:
            return self._ratios[rows]
        return self._ratios[MAX_ROWS] * rows / MAX_ROWS

    def costs(self, rows: int, more: int) -> list[float]:
        """Relative costs of passes with ``rows``, ``rows + 1``, ... ``rows + more`` rows."""
        return [self.ratio(count) for count in range(rows, rows + more + 1)]

    def seconds(self, rows: int) -> float:
        """About how long a pass takes now; 0 before any was measured."""
        return self._scale_s * self.ratio(rows)


def pool_violators(values: list[float], weights: Sequence[float], first: int, last: int) -> None:
    """Make ``values`` ascend again after those from ``first`` to ``last`` have changed; index 0 is left out.

    Values that descend are replaced by their weighted mean, and so are their neighbours as far as that mean does
    not fit between them.
    """
    for at in range(max(first - 1, 1), last + 1):
        if at + 1 < len(values) and values[at] > values[at + 1]:
            _pool(values, weights, at)


def _pool(values: list[float], weights: Sequence[float], at: int) -> None:
    """Replace the values around ``at`` and ``at + 1``, which descend, by one mean that fits between its neighbours."""
    start, end = at, at + 1
    weight = weights[start] + weights[end]
    mean = (values[start] * weights[start] + values[end] * weights[end]) / weight
    while True:
        if start > 1 and values[start - 1] > mean:
            start = added = start - 1
        elif end + 1 < len(values) and values[end + 1] < mean:
            end = added = end + 1
        else:
            break
        mean = (mean * weight + values[added] * weights[added]) / (weight + weights[added])
        weight += weights[added]
    values[start : end + 1] = [mean] * (end + 1 - start)


class Fork(NamedTuple):
    """Two candidates that have their first ``depth`` tokens in common and then part."""

    trunk: Candidate
    branch: Candidate
    depth: int

    def learn(self, came: Sequence[int], rate: BranchRate) -> None:
        """Observe whether the branch was right, if the trunk was wrong where they part."""
        depth, trunk = self.depth, self.trunk.tokens
        reached = depth < len(came) and list(came[:depth]) == list(trunk[:depth])
        if reached and came[depth] != trunk[depth]:
            rate.note(came[depth] == self.branch.tokens[depth])

    def chances(
        self,
        trunk_chances: Sequence[float],
        rates: Sequence[float],
        record: RequestRecord,
        branch_rate: BranchRate,
        most: int,
    ) -> list[float]:
        """Return the probabilities that the branch's first 1, 2, ... ``most`` tokens are accepted, counted from the
        fork.

        ``rates`` and ``record`` are those of the branch's source.
        """
        depth = self.depth
        reached = trunk_chances[depth - 1] if depth else 1.0
        first = (reached - trunk_chances[depth]) * branch_rate.rate
        later = cumulative_chances(rates, record, kinds_of(self.branch)[depth + 1 :], most - 1)
        return [first, *(first * chance for chance in later[: len(self.branch.tokens) - depth - 1])]

    def tree(self, trunk_rows: int, branch_rows: int) -> DraftTree:
        """Return the tree of the trunk's first tokens, and of the branch's after the fork."""
        depth = self.depth
        trunk = self.trunk.tokens[:trunk_rows]
        branch = self.branch.tokens[depth : depth + branch_rows]
        parents = (*range(-1, trunk_rows - 1), depth - 1, *range(trunk_rows, trunk_rows + branch_rows - 1))
        return DraftTree((*trunk, *branch), parents)


def find_fork(trunk: Candidate, candidates: Sequence[Candidate]) -> Fork | None:
    """Return the fork of ``trunk`` and of the candidate with the most evidence that parts from it."""
    best: Fork | None = None
    for candidate in candidates:
        if candidate is trunk or (best is not None and candidate.evidence <= best.branch.evidence):
            continue
        for depth, (one, other) in enumerate(zip(trunk.tokens, candidate.tokens, strict=False)):
            if one != other:
                best = Fork(trunk, candidate, depth)
                break
    return best


class BranchCost:
    """Cost of a branch besides its rows, in passes of one row."""

    def __init__(self) -> None:
        self.ratio = _FIRST_COST

    def note(self, cost: RowCost, rows: int, branches: int, seconds: float) -> None:
        """Learn from a pass with branches that took ``seconds``, where ``cost`` is known of ``rows`` rows alone."""
        unit = cost.seconds(1)
        if unit > 0.0:
            extra = (seconds - cost.seconds(rows)) / unit / branches
            self.ratio += (min(max(extra, 0.0), _MAX_COST) - self.ratio) / 16


class BranchOffer(NamedTuple):
    """A fork whose branch could be verified in a step, and the chances of the branch's tokens."""

    fork: Fork
    chances: Sequence[float]


def choose_branch(
    offers: Sequence[BranchOffer | None], gain: float, rows: int, cost: RowCost, branch: BranchCost, policy: DraftPolicy
) -> tuple[int, int]:
    """Return the offer that brings a step the most tokens per second, and its number of rows; (-1, 0) if none pays.

    Without a branch the step brings ``gain`` tokens from ``rows`` rows.
    """
    best, chosen, extra = 0.0, (-1, 0), branch.ratio * cost.ratio(1)
    for index, offer in enumerate(offers):
        if offer is not None:
            costs = cost.costs(rows, min(len(offer.chances), MAX_CHANCES))
            count, speed = policy.rows_worth(offer.chances, costs, gain, extra=extra)
            if count and speed > best:
                best, chosen = speed, (index, count)
    return chosen
