"""The draft policy as Python calls it: one compiled function decides which drafted tokens are worth a row.

Owns the table through which the kernels of `kernels.draft.policy` are called; the rule and its constants stand there.
Knows neither drafters nor requests. Invariant: a run of passes that drafts by itself (`multistep`) decides by the
same function.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Sequence

from miaotui.kernels.draft import policy_fields as pf
from miaotui.kernels.runtime import compiled
from miaotui.kernels.runtime.thread_pool import address_of, aligned_int64, fields_of

KERNELS = ("draft.policy:rows", "draft.policy:step")  # to prepare before the first request
MAX_CHANCES = pf.MAX_CHANCES


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
