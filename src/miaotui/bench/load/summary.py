"""Summary of a load: percentiles of latencies, goodput under targets, promises kept, and how requests ended.

Owns the arithmetic. Knows neither servers nor forms of output. Invariants: every request that was due is in exactly one
count; refused, failed and late requests are misses of the goodput; percentiles are over answered requests only, by
linear interpolation (NumPy's default, as ``vllm bench serve`` has them).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from miaotui.bench.load.outcome import ANSWERED, REFUSED, RequestOutcome

PERCENTS = (50, 90, 95, 99)
TAIL_S, TAIL_SHARE = 1.0, 0.2  # answers may end so long after a load, or for that share of its time


@dataclass(frozen=True)
class LatencyTargets:
    """Targets that an answer must meet to count as good; milliseconds, None: no such target."""

    e2e_ms: float | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None

    def met(self, outcome: RequestOutcome) -> bool:
        """Return whether the answer came whole and within all targets."""
        pairs = ((self.e2e_ms, outcome.e2e_s), (self.ttft_ms, outcome.ttft_s), (self.tpot_ms, outcome.tpot_s))
        return outcome.is_answered and all(
            limit_ms is None or (found_s or 0.0) * 1e3 <= limit_ms for limit_ms, found_s in pairs
        )

    @property
    def any(self) -> bool:
        """Return whether there is a target."""
        return any(limit_ms is not None for limit_ms in vars(self).values())


@dataclass(frozen=True)
class LatencySummary:
    """Mean and percentiles of one latency, in milliseconds; NaN without samples."""

    count: int
    mean_ms: float
    percentiles_ms: Mapping[int, float]

    @classmethod
    def of(cls, values_s: Iterable[float | None], percents: Sequence[int] = PERCENTS) -> LatencySummary:
        """Summarise seconds; None counts as no sample."""
        found = np.array([value for value in values_s if value is not None], np.float64) * 1e3
        if not found.size:
            return cls(0, math.nan, dict.fromkeys(percents, math.nan))
        values = np.percentile(found, percents)
        return cls(found.size, float(found.mean()), dict(zip(percents, map(float, values), strict=True)))

    def as_dict(self) -> dict[str, float | None]:
        """Return it for JSON; null without samples."""
        named = {"mean_ms": self.mean_ms} | {f"p{percent}_ms": value for percent, value in self.percentiles_ms.items()}
        return {name: None if math.isnan(value) else value for name, value in named.items()}


@dataclass(frozen=True)
class LoadSummary:
    """Numbers of one load. Rates are per second of the load's duration, in which requests were due.

    Where the answers fell behind, the time until the last one counts too: a line that is worked off later is no speed.
    """

    rate_per_s: float | None  # that was asked for; None: as fast as answers come
    duration_s: float
    ends: Mapping[str, int]  # how many ended so
    errors: Mapping[str, int]  # the same by end, status and detail
    in_time: int
    promised: int  # taken on by the server with a deadline
    promises_kept: int
    wrong_usage: int  # answers whose count of tokens cannot be right
    tokens: int
    prompt_tokens: int
    tokens_per_s: float
    tail_s: float  # from the load's end to the last answer
    latencies: Mapping[str, LatencySummary]  # ttft, tpot, itl, e2e, late, refusal
    streams: int | None = None  # of a closed load: answers at a time

    @property
    def name(self) -> str:
        """The load in a few words."""
        if self.rate_per_s is not None:
            return f"{self.rate_per_s:.3g}/s"
        return f"{self.streams} at a time" if self.streams else "all at once"

    @property
    def asked(self) -> int:
        """Requests that were due."""
        return sum(self.ends.values())

    @property
    def answered(self) -> int:
        """Requests that got a whole answer."""
        return self.ends.get(ANSWERED, 0)

    @property
    def refused(self) -> int:
        """Requests that the server was too busy for."""
        return self.ends.get(REFUSED, 0)

    @property
    def failed(self) -> int:
        """Requests that ended in any other way."""
        return self.asked - self.answered - self.refused

    @property
    def goodput_per_s(self) -> float:
        """Answers within the targets, per second."""
        return self.in_time / self.counted_s

    @property
    def answered_per_s(self) -> float:
        """Whole answers, per second."""
        return self.answered / self.counted_s

    @property
    def counted_s(self) -> float:
        """Seconds that rates are of."""
        return self.duration_s + (self.tail_s if self.fell_behind else 0.0)

    @property
    def fell_behind(self) -> bool:
        """Return whether answers came long after the load had ended: a line was growing."""
        return self.tail_s > max(TAIL_SHARE * self.duration_s, TAIL_S)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        latencies = {name: each.as_dict() for name, each in self.latencies.items()}
        plain = {name: value for name, value in vars(self).items() if name != "latencies"}
        counts = {name: getattr(self, name) for name in ("asked", "answered", "refused", "failed")}
        rates = {name: getattr(self, name) for name in ("answered_per_s", "goodput_per_s")}
        return {**plain, **counts, **rates, "latencies": latencies}


def summarised(
    outcomes: Sequence[RequestOutcome],
    duration_s: float,
    targets: LatencyTargets,
    rate_per_s: float | None = None,
    deadline_ms: float | None = None,
    streams: int | None = None,
) -> LoadSummary:
    """Summarise a load of ``duration_s``. ``deadline_ms`` is the deadline that was sent with each request.

    ``rate_per_s`` is that of an open load, ``streams`` of a closed one; neither where all requests came at once.
    """
    answered = [each for each in outcomes if each.is_answered]
    promised = [each for each in outcomes if each.promised]
    sent = LatencyTargets(e2e_ms=deadline_ms)
    tokens = sum(each.tokens for each in answered)
    begun = min((each.due_s for each in outcomes), default=0.0)
    ended = max((each.done_s or each.due_s for each in outcomes), default=0.0)
    return LoadSummary(
        rate_per_s=rate_per_s,
        duration_s=duration_s,
        ends=dict(Counter(each.end for each in outcomes)),
        errors=_errors(outcomes),
        in_time=sum(map(targets.met, answered)),
        promised=len(promised),
        promises_kept=sum(map(sent.met, promised)),
        wrong_usage=sum(not each.claim_is_possible for each in answered),
        tokens=tokens,
        prompt_tokens=sum(each.prompt_tokens or 0 for each in answered),
        tokens_per_s=tokens / max(ended - begun, 1e-9),
        tail_s=max(ended - duration_s, 0.0),
        latencies={
            "ttft": LatencySummary.of(each.ttft_s for each in answered),
            "tpot": LatencySummary.of(each.tpot_s for each in answered),
            "itl": LatencySummary.of(gap for each in answered for gap in each.itl_s),
            "e2e": LatencySummary.of(each.e2e_s for each in answered),
            "late": LatencySummary.of(each.late_s for each in outcomes if each.sent_s is not None),
            "refusal": LatencySummary.of(each.refusal_s for each in outcomes),
        },
        streams=streams,
    )


def _errors(outcomes: Sequence[RequestOutcome]) -> dict[str, int]:
    named = Counter(
        " ".join(filter(None, (each.end, str(each.status or ""), each.detail)))
        for each in outcomes
        if not each.is_answered
    )
    return dict(named.most_common(20))
