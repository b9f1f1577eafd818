"""Report of loads: a table for people, and values for the JSON line.

Owns both forms. Knows no servers. Invariants: latencies of no answer are shown as a dash, never as zero; each kind of
failure has a line of its own below the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from miaotui.bench.load.summary import LatencySummary, LatencyTargets, LoadSummary
from miaotui.bench.load.sweep import is_sustained
from miaotui.bench.report import aligned

LATE_MS = 10.0  # the client's own delay that is worth a warning


def load_table(summaries: Sequence[LoadSummary]) -> str:
    """Return a row for each load."""
    head = [
        "load",
        "asked",
        "answered",
        "refused",
        "failed",
        "TTFT [ms, p50 / p99]",
        "TPOT [ms, p50 / p99]",
        "ITL [ms, p50 / p99]",
        "E2E [ms, p50 / p99]",
        "tokens/s",
        "goodput [1/s]",
        "promises kept",
        "",
    ]
    return aligned([head, *(_row(each) for each in summaries)])


def _row(summary: LoadSummary) -> list[str]:
    kept = f"{summary.promises_kept} of {summary.promised}" if summary.promised else "-"
    return [
        summary.name,
        *(str(getattr(summary, name)) for name in ("asked", "answered", "refused", "failed")),
        *(_pair(summary.latencies[name]) for name in ("ttft", "tpot", "itl", "e2e")),
        f"{summary.tokens_per_s:.1f}",
        f"{summary.goodput_per_s:.3g}",
        kept,
        "saturated" if summary.asked and summary.rate_per_s is not None and not is_sustained(summary) else "",
    ]


def _pair(latency: LatencySummary) -> str:
    return " / ".join(shown_ms(latency.percentiles_ms[percent]) for percent in (50, 99))


def shown_ms(value: float) -> str:
    """Return milliseconds with three digits at most; a dash for none."""
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def load_notes(summaries: Iterable[LoadSummary], targets: LatencyTargets) -> list[str]:
    """Return lines about what the table does not show: failures by name, counts that are wrong, a late client."""
    found = []
    limits = ", ".join(
        f"{name[:-3].upper()} {value:g} ms" for name, value in vars(targets).items() if value is not None
    )
    found.append(f"goodput: whole answers within {limits}" if limits else "goodput: whole answers, without a target")
    for each in summaries:
        rate = each.name
        if not each.asked:
            found.append(f"{rate}: no request was due within {each.duration_s:g} s: lengthen --duration")
        if each.fell_behind and each.rate_per_s is not None:
            found.append(
                f"{rate}: answers came until {each.tail_s:.1f} s after the load: a line grew "
                "(if one answer alone takes that long, lengthen --duration)"
            )
        found += [f"{rate}: {count} x {name}" for name, count in each.errors.items()]
        if each.refused:
            found.append(f"{rate}: refused within {_pair(each.latencies['refusal'])} ms (p50 / p99)")
        if each.wrong_usage:
            found.append(f"{rate}: {each.wrong_usage} answers whose usage cannot be right; their pieces were counted")
        late_ms = each.latencies["late"].percentiles_ms[99]
        if late_ms > LATE_MS:
            found.append(f"{rate}: this client sent late, p99 {shown_ms(late_ms)} ms: run it on another machine")
    return found
