"""Answers of the servers as numbers, a table and checks of what must hold.

Owns the counting: an answer counts if it is whole, of status 200, and in its client's hands within
the deadline. Knows neither processes nor clocks. Invariant: refused and late requests count as
misses in the goodput, and a peer counts with its best load.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.peers.report import Check
from benchmarks.promises.goodput_servers import LLAMA_CPP, OPENVINO, OURS, Server
from miaotui.bench.report import aligned

REFUSED = 429
DISTURBED = 0.15  # cores used by strangers


@dataclass(frozen=True)
class Steps:
    """Seconds of our engine's steps, and of the passes within them."""

    steps_s: float
    passes_s: float

    @staticmethod
    def between(before: Steps, after: Steps | None) -> Steps | None:
        """What came between two readings."""
        if after is None:
            return None
        return Steps(after.steps_s - before.steps_s, after.passes_s - before.passes_s)

    @property
    def share(self) -> float:
        """The share of steps that is neither passes nor the choice of tokens: Python and HTTP."""
        return 1 - self.passes_s / self.steps_s if self.steps_s > 0 else 0.0


def steps_of(server: Server) -> Steps | None:
    """Our server's own account; None for others."""
    if server.kind.name != OURS:
        return None
    text = server.read("/metrics")
    names = ("miaotui_step_busy_seconds_total", "miaotui_pass_seconds_total")
    values = [re.search(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE) for name in names]
    numbers = [float(found.group(1)) if found else 0.0 for found in values]
    return Steps(*numbers)


@dataclass(frozen=True)
class Row:
    """One load on one server."""

    name: str
    load: float  # in multiples of the capacity
    rate: float
    seconds: float
    deadline_ms: float
    found: Sequence[dict[str, Any]]
    strangers: float
    steps: Steps | None

    @property
    def in_time(self) -> int:
        """Whole answers within the deadline, as clients saw them."""
        return sum(_took_ms(each) <= self.deadline_ms for each in self.answered)

    @property
    def answered(self) -> list[dict[str, Any]]:
        """Requests that got a whole answer, at whatever time."""
        return [each for each in self.found if each["status"] == 200 and each.get("done_s")]

    @property
    def refused(self) -> list[dict[str, Any]]:
        """Requests that were refused."""
        return [each for each in self.found if each["status"] == REFUSED and each.get("done_s")]

    @property
    def admitted(self) -> int:
        """Requests that were not refused, answered or not."""
        return len(self.found) - len(self.refused)

    @property
    def met(self) -> float:
        """The share of the admitted that was in time."""
        return self.in_time / self.admitted if self.admitted else 1.0

    @property
    def goodput(self) -> float:
        """Answers in time per second."""
        return self.in_time / self.seconds

    @property
    def refusal_ms(self) -> float:
        """Within which 99% of refusals were told."""
        return quantile([_took_ms(each) for each in self.refused], 0.99)

    def cells(self) -> list[str]:
        """For the table."""
        took = [_took_ms(each) for each in self.answered]
        mark = " !" if self.strangers > DISTURBED else ""
        share = f"{100 * self.steps.share:.1f}%" if self.steps and self.steps.steps_s else "-"
        return [
            self.name,
            f"{self.load:g} ({self.rate:.2f}/s)",
            str(len(self.found)),
            str(self.admitted),
            f"{100 * self.met:.1f}%",
            str(len(self.refused)),
            f"{self.refusal_ms:.1f}" if self.refused else "-",
            f"{quantile(took, 0.5):.0f} / {quantile(took, 0.99):.0f}" if took else "-",
            share,
            f"{self.goodput:.2f}{mark}",
        ]

    def text(self) -> str:
        """One line while it runs."""
        return "  " + ", ".join(f"{n} {c}" for n, c in zip(HEAD, self.cells(), strict=True))

    def as_dict(self) -> dict[str, Any]:
        """For the JSON line."""
        took = [_took_ms(each) for each in self.answered]
        return {
            "server": self.name,
            "load": self.load,
            "rate_per_s": self.rate,
            "seconds": self.seconds,
            "asked": len(self.found),
            "admitted": self.admitted,
            "in_time": self.in_time,
            "refused": len(self.refused),
            "refusal_p99_ms": self.refusal_ms,
            "took_p50_ms": quantile(took, 0.5),
            "took_p99_ms": quantile(took, 0.99),
            "goodput_per_s": self.goodput,
            "strangers_cores": self.strangers,
            "python_share": None if self.steps is None else self.steps.share,
        }


HEAD = [
    "server",
    "load",
    "asked",
    "admitted",
    "of them in time",
    "refused",
    "told within [ms, p99]",
    "answers took [ms, p50 / p99]",
    "Python and HTTP",
    "goodput [1/s]",
]


@dataclass
class Outcome:
    """Everything measured."""

    deadline_ms: float
    rows: list[Row]
    capacity: float = 0.0
    first_tokens: dict[str, list[float]] = field(default_factory=dict)  # prompts -> seconds

    def of(self, *names: str) -> list[Row]:
        """The rows of these servers."""
        return [row for row in self.rows if row.name in names]

    def as_dict(self) -> dict[str, Any]:
        """For the JSON line."""
        return {
            "deadline_ms": self.deadline_ms,
            "capacity_per_s": self.capacity,
            "ttft_ms": {
                name: {"p50": 1e3 * quantile(times, 0.5), "p99": 1e3 * quantile(times, 0.99)}
                for name, times in self.first_tokens.items()
            },
            "rows": [row.as_dict() for row in self.rows],
        }


def table(outcome: Outcome) -> str:
    """All rows; a ``!`` marks those beside which strangers used the processor."""
    text = aligned([HEAD, *(row.cells() for row in outcome.rows)])
    for name, times in outcome.first_tokens.items():
        p50, p99 = (1e3 * quantile(times, share) for share in (0.5, 0.99))
        text += f"\nfirst token with 8 streams, prompts of {name} tokens: p50 {p50:.0f}, p99 {p99:.0f} ms"
    return text


def checks(outcome: Outcome) -> Iterator[Check]:
    """What must hold."""
    rows = outcome.of(OURS)
    if rows:
        worst = min(row.met for row in rows)
        yield Check("admitted and in time, worst load", worst, 0.99, 1.0, "")
        told = [row.refusal_ms for row in rows if row.refused]
        if told:
            yield Check("refusals told, p99, worst load", max(told), 20, 10, "ms", False)
        beyond = [row.goodput for row in rows if row.load >= 1.0]
        if len(beyond) > 1:
            kept = min(later / max(*beyond[:i], 1e-3) for i, later in enumerate(beyond) if i)
            yield Check("goodput kept beyond saturation", kept, 0.95, 1.0, "of the best before")
        best = max(row.goodput for row in rows)
        yield Check("goodput, best load", best, 3, 5, "1/s")
        yield from _over_peers(outcome)
        shares = [row.steps.share for row in rows if row.steps and row.steps.steps_s > 0]
        if shares:
            share = median(shares)
            yield Check("Python and HTTP, of a step", 100 * share, 5, 3, "%", False)
    if times := outcome.first_tokens.get("40"):
        p99 = 1e3 * quantile(times, 0.99)
        yield Check("first token, 8 streams, p99", p99, 150, 100, "ms", False)


def _over_peers(outcome: Outcome) -> Iterator[Check]:
    """From the capacity up, at the loads that all were given: below it peers are in time as well."""
    goodput: dict[str, float] = {}
    ours = {row.load: row.goodput for row in outcome.of(OURS) if row.load >= 1.0}
    for name in (LLAMA_CPP, OPENVINO):
        rows = [row for row in outcome.of(name) if row.load in ours]
        if rows:
            goodput[name] = sum(ours[row.load] for row in rows) / max(sum(row.goodput for row in rows), 1e-3)
    if goodput:
        yield Check("goodput over the better peer, from 1 x", min(goodput.values()), 10, 20, "x")


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def _took_ms(each: dict[str, Any]) -> float:
    took: float = (each["done_s"] - each["sent_s"]) * 1e3
    return took
