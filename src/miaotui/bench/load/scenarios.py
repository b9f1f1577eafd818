"""Scenarios after MLPerf Inference: single stream, server and offline, each with its one number and its validity.

Owns which load each plays, which number counts, and how many requests that number needs. Knows no server. The numbers
are not official results. The percentile that counts is an upper bound of 99% confidence by order statistics
(distribution-free, David and Nagaraja 2003, section 7.1), in place of MLPerf's early stopping. Invariant: a number
that has too few requests behind it, or failures beside it, is marked invalid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from miaotui.bench.load.outcome import RequestOutcome

Scenario = Literal["single-stream", "server", "offline"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
CONFIDENCE = 0.99
QUANTILES = {"single-stream": 0.90, "server": 0.99}


@dataclass(frozen=True)
class ScenarioResult:
    """Number of one scenario; ``reasons`` say why it is not valid, none if it is."""

    scenario: Scenario
    metric: str
    value: float | None
    unit: str
    requests: int
    rate_per_s: float | None = None  # of a server
    reasons: tuple[str, ...] = ()

    @property
    def is_valid(self) -> bool:
        """Return whether the number counts."""
        return not self.reasons

    def text(self) -> str:
        """Return one line for people."""
        number = "no number" if self.value is None else f"{self.value:.4g} {self.unit}"
        state = "valid" if self.is_valid else f"INVALID ({'; '.join(self.reasons)})"
        rate = "" if self.rate_per_s is None else f" at {self.rate_per_s:.3g}/s"
        return f"{self.scenario}{rate}: {self.metric} {number}, {self.requests} requests: {state}"


def scenario_result(
    scenario: Scenario,
    outcomes: Sequence[RequestOutcome],
    *,
    least_s: float,
    bound_ms: float | None = None,
    rate_per_s: float | None = None,
) -> ScenarioResult:
    """Return the scenario's number. ``least_s`` is the time that it must last, ``bound_ms`` the latency of a server.

    For single stream that is the 90th percentile of the answers' times, for a server the 99th, for offline the tokens
    per second.
    """
    answered = [each for each in outcomes if each.is_answered]
    lasted_s = max((each.done_s or 0.0 for each in outcomes), default=0.0)
    reasons = []
    if len(answered) < len(outcomes):
        reasons.append(f"{len(outcomes) - len(answered)} of {len(outcomes)} without an answer")
    if scenario == "offline":
        tokens = sum(each.tokens for each in answered)
        value = tokens / lasted_s if lasted_s else None
        return ScenarioResult(scenario, "all at once,", value, "tokens/s", len(outcomes), None, tuple(reasons))
    if lasted_s < least_s:
        reasons.append(f"lasted {lasted_s:.1f} s of {least_s:g} s")
    quantile = QUANTILES[scenario]
    bound_s = upper_bound([each.e2e_s or math.inf for each in answered], quantile)
    if bound_s is None:
        reasons.append(f"{len(answered)} answers are too few: {least_count(quantile)} are needed")
    elif bound_ms is not None and bound_s * 1e3 > bound_ms:
        reasons.append(f"above {bound_ms:g} ms")
    value = None if bound_s is None else bound_s * 1e3
    metric = f"p{100 * quantile:.0f} latency, at most"
    return ScenarioResult(scenario, metric, value, "ms", len(outcomes), rate_per_s, tuple(reasons))


def least_count(quantile: float, confidence: float = CONFIDENCE) -> int:
    """Return how many samples bound a quantile with this confidence: their maximum is the bound then."""
    return math.ceil(math.log(1 - confidence) / math.log(quantile))


def upper_bound(values: Sequence[float], quantile: float, confidence: float = CONFIDENCE) -> float | None:
    """Return the least order statistic that exceeds a quantile with this confidence; None for too few values.

    The j-th of n values exceeds the quantile q with the probability that a binomial variable (n, q) is below j.
    """
    ordered, n = sorted(values), len(values)
    below = 0.0
    for j in range(1, n + 1):
        below += _binomial(n, j - 1, quantile)
        if below >= confidence:
            return ordered[j - 1]
    return None


def _binomial(n: int, k: int, p: float) -> float:
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))
