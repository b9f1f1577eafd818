"""Loads on the servers as a table and checks of what must hold.

Owns what a row shows and what is checked; `miaotui.bench.load` counts. Knows neither processes nor clocks. Invariant:
refused and late requests are misses, and a peer counts with its best load.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.peers.report import Check
from benchmarks.promises.goodput_servers import LLAMA_CPP, OPENVINO, OURS, Server
from miaotui.bench.load.report import shown_ms
from miaotui.bench.load.summary import LatencySummary, LoadSummary
from miaotui.bench.report import aligned

DISTURBED = 0.15  # cores used by strangers
HEAD = [
    "server",
    "load",
    "asked",
    "taken on",
    "of them in time",
    "refused",
    "told within [ms, p99]",
    "answers took [ms, p50 / p99]",
    "Python and HTTP",
    "goodput [1/s]",
]


@dataclass(frozen=True)
class Steps:
    """Seconds of our engine's steps, and of the passes within them."""

    steps_s: float
    passes_s: float

    def since(self, before: Steps) -> Steps:
        """What came after an earlier reading."""
        return Steps(self.steps_s - before.steps_s, self.passes_s - before.passes_s)

    @property
    def share(self) -> float:
        """The share of steps that is neither passes nor the choice of tokens: Python and HTTP."""
        return 1 - self.passes_s / self.steps_s if self.steps_s > 0 else 0.0


def steps_of(server: Server) -> Steps:
    """Our server's own account."""
    text = server.read("/metrics")
    names = ("miaotui_step_busy_seconds_total", "miaotui_pass_seconds_total")
    values = [re.search(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE) for name in names]
    return Steps(*(float(found.group(1)) if found else 0.0 for found in values))


@dataclass(frozen=True)
class Row:
    """One load on one server."""

    name: str
    load: float  # in multiples of the capacity
    summary: LoadSummary
    strangers: float  # cores
    steps: Steps | None = None  # of our server

    @property
    def taken(self) -> int:
        """Requests that were not refused, answered or not."""
        return self.summary.asked - self.summary.refused

    @property
    def met(self) -> float:
        """The share of those that was in time."""
        return self.summary.in_time / self.taken if self.taken else 1.0

    @property
    def goodput(self) -> float:
        """Answers in time per second of the load."""
        return self.summary.in_time / self.summary.duration_s

    @property
    def share(self) -> float | None:
        """The share of our steps that is Python and HTTP; None of peers and of no step."""
        return self.steps.share if self.steps and self.steps.steps_s else None

    def cells(self) -> list[str]:
        """For the table."""
        took, told = self.summary.latencies["e2e"].percentiles_ms, self.summary.latencies["refusal"].percentiles_ms
        return [
            self.name,
            f"{self.load:g} ({self.summary.name})",
            str(self.summary.asked),
            str(self.taken),
            f"{100 * self.met:.1f}%",
            str(self.summary.refused),
            shown_ms(told[99]),
            f"{shown_ms(took[50])} / {shown_ms(took[99])}",
            "-" if self.share is None else f"{100 * self.share:.1f}%",
            f"{self.goodput:.2f}{' !' if self.strangers > DISTURBED else ''}",
        ]

    def text(self) -> str:
        """One line while it runs."""
        return "  " + ", ".join(f"{n} {c}" for n, c in zip(HEAD, self.cells(), strict=True))

    def as_dict(self) -> dict[str, Any]:
        """For the JSON line."""
        own = {"server": self.name, "load": self.load, "strangers_cores": self.strangers, "python_share": self.share}
        return own | {"goodput_of_load_per_s": self.goodput} | self.summary.as_dict()


@dataclass
class Outcome:
    """Everything measured."""

    deadline_ms: float
    rows: list[Row] = field(default_factory=list)
    capacity: float = 0.0
    first_text: LatencySummary | None = None  # of eight streams

    def of(self, *names: str) -> list[Row]:
        """The rows of these servers."""
        return [row for row in self.rows if row.name in names]

    def as_dict(self) -> dict[str, Any]:
        """For the JSON line."""
        return {
            "deadline_ms": self.deadline_ms,
            "capacity_per_s": self.capacity,
            "ttft": self.first_text.as_dict() if self.first_text else None,
            "rows": [row.as_dict() for row in self.rows],
        }


def table(outcome: Outcome) -> str:
    """All rows; a ``!`` marks those beside which strangers used the processor."""
    text = aligned([HEAD, *(row.cells() for row in outcome.rows)])
    if outcome.first_text:
        p50, p99 = (outcome.first_text.percentiles_ms[percent] for percent in (50, 99))
        text += f"\nfirst text with 8 streams, prompts of 40 words: p50 {shown_ms(p50)}, p99 {shown_ms(p99)} ms"
    return text


def checks(outcome: Outcome) -> Iterator[Check]:
    """What must hold."""
    rows = outcome.of(OURS)
    if rows:
        worst = min(row.met for row in rows)
        yield Check("taken on and in time, worst load", worst, 0.99, 1.0, "")
        told = [row.summary.latencies["refusal"].percentiles_ms[99] for row in rows if row.summary.refused]
        if told:
            yield Check("refusals told, p99, worst load", max(told), 20, 10, "ms", False)
        beyond = [row.goodput for row in rows if row.load >= 1.0]
        if len(beyond) > 1:
            kept = min(later / max(*beyond[:i], 1e-3) for i, later in enumerate(beyond) if i)
            yield Check("goodput kept beyond saturation", kept, 0.95, 1.0, "of the best before")
        best = max(row.goodput for row in rows)
        yield Check("goodput, best load", best, 3, 5, "1/s")
        yield from _over_peers(outcome)
        shares = [row.share for row in rows if row.share is not None]
        if shares:
            yield Check("Python and HTTP, of a step", 100 * median(shares), 5, 3, "%", False)
    if outcome.first_text:
        p99 = outcome.first_text.percentiles_ms[99]
        yield Check("first text, 8 streams, p99", p99, 150, 100, "ms", False)


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
