"""Comparison of two ways in pairs: the same fresh prompts for both, one right after the other, in changing order.

Owns the pairs, and the median of their ratios with its interval. Knows no servers: a `Target` answers. Invariants: each
ratio is of one pair, so that slow drifts of the machine cancel; a pair in which one side failed gives no ratio and is
counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from miaotui.bench.load.outcome import RequestOutcome
from miaotui.bench.load.play import play_open
from miaotui.bench.load.prompts import PromptPlan
from miaotui.bench.load.target import Target
from miaotui.bench.report import aligned

DRAWS = 2000
COVERED = 0.95
METRICS = ("TTFT [ms]", "TPOT [ms]", "E2E [ms]", "tokens/s")


@dataclass(frozen=True)
class PairedRatio:
    """Median over pairs of B / A for one number, and its bootstrap interval; NaN without pairs."""

    metric: str
    a: float  # medians of each side
    b: float
    ratio: float
    low: float
    high: float
    pairs: int

    @property
    def verdict(self) -> str:
        """Return whether the interval leaves out 1."""
        if not self.pairs or self.low <= 1 <= self.high:
            return "no difference shown"
        return "B is higher" if self.low > 1 else "B is lower"


@dataclass
class Comparison:
    """Samples of both sides by metric, pair for pair; ``failed`` pairs had no whole answer on one side."""

    names: tuple[str, str]
    samples: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    failed: int = 0

    @property
    def count(self) -> int:
        """Pairs that were measured, with those that failed."""
        return self.failed + max(map(len, self.samples.values()), default=0)

    def ratios(self, seed: int = 0) -> list[PairedRatio]:
        """Return the ratio of each metric."""
        return [paired_ratio(name, pairs, seed) for name, pairs in self.samples.items()]

    def table(self) -> str:
        """Return a row for each metric."""
        rows = [["", "A", "B", "B / A", "95% interval", "pairs", ""]]
        for each in self.ratios():
            interval = f"{each.low:.3f} to {each.high:.3f}"
            numbers = (f"{each.a:.4g}", f"{each.b:.4g}", f"{each.ratio:.3f}", interval, str(each.pairs))
            rows.append([each.metric, *numbers, each.verdict])
        return aligned(rows)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        ratios = [{**vars(each), "verdict": each.verdict} for each in self.ratios()]
        return {"a": self.names[0], "b": self.names[1], "failed_pairs": self.failed, "ratios": ratios}


def paired_ratio(metric: str, pairs: Sequence[tuple[float, float]], seed: int = 0) -> PairedRatio:
    """Return the median of b / a over pairs, with a percentile bootstrap interval (Efron and Tibshirani 1993)."""
    sound = [(a, b) for a, b in pairs if a > 0 and b > 0]
    if not sound:
        return PairedRatio(metric, math.nan, math.nan, math.nan, math.nan, math.nan, 0)
    ratios = np.array([b / a for a, b in sound])
    drawn = np.random.default_rng(seed).choice(ratios, (DRAWS, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [(1 - COVERED) / 2, (1 + COVERED) / 2])
    a, b = (median(side) for side in zip(*sound, strict=True))
    return PairedRatio(metric, a, b, float(np.median(ratios)), float(low), float(high), len(sound))


async def compare(
    found: Comparison,
    sides: tuple[Target, Target],
    plan: PromptPlan,
    pairs: int,
    streams: int,
    note: Callable[[str], None],
) -> None:
    """Ask both sides ``pairs`` times for ``streams`` answers together; one warm-up for each is not counted.

    Each pair is in ``found`` as soon as it is measured.
    """
    for at in range(-1, pairs):
        planned = [plan.planned((at + 1) * streams + stream) for stream in range(streams)]
        order = (0, 1) if at % 2 else (1, 0)
        outcomes = {side: await play_open(sides[side], planned) for side in order}
        if at < 0:
            continue
        both = [_numbers(outcomes[side]) for side in (0, 1)]
        if not all(both):
            found.failed += 1
            note(f"pair {at + 1}/{pairs}: no whole answer")
            continue
        for name, samples in found.samples.items():
            samples.append((both[0][name], both[1][name]))
        note(f"pair {at + 1}/{pairs}: E2E B / A {both[1]['E2E [ms]'] / both[0]['E2E [ms]']:.3f}")


def _numbers(outcomes: Sequence[RequestOutcome]) -> Mapping[str, float]:
    """Return the metrics of one side of a pair; none unless every answer is whole."""
    if not all(each.is_answered and each.ttft_s is not None for each in outcomes):
        return {}
    last_s = max(each.done_s or 0.0 for each in outcomes)
    return {
        "TTFT [ms]": 1e3 * median(each.ttft_s or 0.0 for each in outcomes),
        "TPOT [ms]": 1e3 * median(each.tpot_s or 0.0 for each in outcomes),
        "E2E [ms]": 1e3 * median(each.e2e_s or 0.0 for each in outcomes),
        "tokens/s": sum(each.tokens for each in outcomes) / max(last_s, 1e-9),
    }
