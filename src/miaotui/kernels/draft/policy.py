"""The draft policy: whether a drafted token is worth a row of the next pass.

`rows_worth` decides it, for drafts of any source, and `step_worth` whether a draft head computes one more token.
The compiled loop calls them (`multistep`), Python calls them through the kernels below (`speculation.policy`).
Owns the rule alone: chances and costs are given. Invariant: the decision depends on its arguments alone, and is the
same for both callers. Tokens per cost are maximised as Leviathan et al. do (2023, section 3.2), here with measured
costs of each number of rows and a probability for each token.
"""

from __future__ import annotations

from typing import Any

from miaotui.kernels.draft.policy_fields import (
    MAX_CHANCES,
    MIN_CHANCE,
    POLICY_FIELDS,
    STEP_COST,
    STEP_PRICE,
    STEP_TOKENS,
    WORTH_CHANCES,
    WORTH_COSTS,
    WORTH_COUNT,
    WORTH_EXTRA,
    WORTH_GAIN,
    WORTH_MARGIN,
    WORTH_SPEED,
)
from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import peek
from miaotui.kernels.sampling.weights import doubles


@inline
def rows_worth(chances, costs, count, gain, margin, extra):  # type: ignore[no-untyped-def]
    """Choose how many of ``count`` drafted tokens get a row: the number that brings the most tokens per cost.

    ``chances[i]`` is the probability that token i and all before it are accepted; it never rises with i.
    ``costs[n]`` is the cost of a pass with n drafted rows, to which ``extra`` is added if there are any. Without
    them the pass brings ``gain`` tokens, and with them it must bring ``margin`` times as many per cost. Returns
    the number and the tokens per cost, 0 and a bound for it if no row is worth it.
    """
    best, worth = margin * gain / costs[0], 0
    for index in range(count):
        if chances[index] < MIN_CHANCE:
            break
        gain += chances[index]
        speed = gain / (costs[index + 1] + extra)
        if speed > best:
            best, worth = speed, index + 1
    return worth, best


@inline
def step_worth(tokens, price, gain, cost, margin):  # type: ignore[no-untyped-def]
    """Tell whether a step of the head is worth ``price``: its own cost and that of the rows for its tokens.

    It promises ``tokens`` more, in a pass that brings ``gain`` for ``cost`` without it.
    """
    return tokens * cost > margin * gain * price


@kernel(1)
def rows(table: Any) -> Any:
    """Call `rows_worth` with what the table holds; returns the number."""
    numbers = doubles(table, POLICY_FIELDS)
    chances = numbers[WORTH_CHANCES : WORTH_CHANCES + MAX_CHANCES]
    costs = numbers[WORTH_COSTS : WORTH_COSTS + MAX_CHANCES + 1]
    count = min(peek(table, WORTH_COUNT), MAX_CHANCES)
    worth, speed = rows_worth(chances, costs, count, numbers[WORTH_GAIN], numbers[WORTH_MARGIN], numbers[WORTH_EXTRA])
    numbers[WORTH_SPEED] = speed
    return worth


@kernel(1)
def step(table: Any) -> Any:
    """Call `step_worth` with what the table holds; returns 1 or 0."""
    numbers = doubles(table, POLICY_FIELDS)
    tokens, price = numbers[STEP_TOKENS], numbers[STEP_PRICE]
    if step_worth(tokens, price, numbers[WORTH_GAIN], numbers[STEP_COST], numbers[WORTH_MARGIN]):
        return 1
    return 0
