"""Sweep of arrival rates, from a light load to saturation, and the rate that is still sustained.

Owns the choice of rates and what saturation means. Knows no server: `Level` makes a summary of one rate. Invariant: a
rate counts as sustained if at least `SUSTAINED` of its requests, or all but one, were answered within the targets, and
the answers kept up with it. (Among a few requests a single miss is chance.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from miaotui.bench.load.summary import LoadSummary

SUSTAINED = 0.95  # of requests, answered within the targets
MAX_LEVELS = 16
GROWTH = 1.1
REFINEMENTS = 2  # steps between the last rate that is sustained and the first that is not

Level = Callable[[float], Awaitable[LoadSummary]]


def is_sustained(summary: LoadSummary) -> bool:
    """Return whether the server kept up with this rate."""
    missed = summary.asked - summary.in_time
    allowed = max(1.0, (1 - SUSTAINED) * summary.asked)
    return bool(summary.in_time) and missed <= allowed + 1e-9 and not summary.fell_behind


async def sweep(level: Level, first_per_s: float, report: Callable[[LoadSummary], None]) -> list[LoadSummary]:
    """Double the rate until it is not sustained, then look between; return all summaries by rate.

    Where even the first rate is not sustained, since some requests can meet no target, the rate is doubled as long as
    more answers are good. ``report`` is called after each.
    """
    found: list[LoadSummary] = []

    async def at(rate_per_s: float) -> bool:
        found.append(await level(rate_per_s))
        report(found[-1])
        return is_sustained(found[-1])

    good, rate = 0.0, first_per_s
    while len(found) < MAX_LEVELS - REFINEMENTS:
        if await at(rate):
            good = rate
        elif good or not _grows(found):
            break
        rate *= 2
    for _ in range(REFINEMENTS if good else 0):
        middle = (good + rate) / 2
        if await at(middle):
            good = middle
        else:
            rate = middle
    return sorted(found, key=lambda each: each.rate_per_s or 0.0)


def _grows(found: Sequence[LoadSummary]) -> bool:
    """Return whether the last rate gave clearly more good answers than the one before, or any as the first."""
    before = found[-2].goodput_per_s if len(found) > 1 else 0.0
    return found[-1].goodput_per_s > GROWTH * before


def sustained_rate(summaries: Sequence[LoadSummary]) -> float | None:
    """Return the highest rate that was sustained; None if none was."""
    return max((each.rate_per_s or 0.0 for each in summaries if is_sustained(each)), default=None)
