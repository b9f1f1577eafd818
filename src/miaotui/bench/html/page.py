"""Pages of reports: speed of a model, loads on a server, and comparisons.

Owns which charts a report has. Knows no measurement. Invariants: a page is one file that asks for nothing else (its
policy forbids it); numbers that are shown are those of the JSON line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from miaotui.bench.html.charts import ChartAxis, ChartSeries, chart, time_line
from miaotui.config import cache_error

if TYPE_CHECKING:  # a load on a server needs no kernels
    from miaotui.bench.load.outcome import RequestOutcome
    from miaotui.bench.load.summary import LoadSummary
    from miaotui.bench.speed import MachineLimits, RooflinePoint, SpeedReport

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
pre { overflow-x: auto; background: color-mix(in srgb, currentColor 7%, transparent); padding: .8rem; \
font-size: .8rem; }
svg { width: 100%; height: auto; } figure { margin: 1rem 0; }
.grid { stroke: currentColor; opacity: .15; } .tick, .label { fill: currentColor; font-size: 11px; }
.piece { stroke: currentColor; opacity: .6; } .empty { opacity: .6; }
.legend span { margin-right: 1rem; font-size: .85rem; } .legend i { display: inline-block; width: .8em; height: .8em; \
margin-right: .3em; border-radius: 2px; }
"""
MAX_ECDF_POINTS = 400

Section = tuple[str, str]  # heading, HTML


def page(title: str, about: Sequence[str], sections: Sequence[Section], json_line: str) -> str:
    """Return a report as HTML."""
    body = "".join(f"<section><h2>{escape(name)}</h2>{content}</section>" for name, content in sections)
    notes = "".join(f"<p>{escape(line)}</p>" for line in about)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{notes}{body}"
        f"<section><h2>JSON</h2><details><summary>the line that programs read</summary><pre>{escape(json_line)}</pre>"
        "</details></section></body></html>\n"
    )


def write_page(path: Path, text: str) -> None:
    """Write a report. Raises `CacheError` with the remedy where it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise cache_error(error, path) from error


def table_section(table: str) -> Section:
    """Return the table that the command prints."""
    return "Numbers", f"<pre>{escape(table)}</pre>"


def speed_sections(report: SpeedReport) -> list[Section]:
    """Return the charts of one model's speed."""
    ways = dict.fromkeys(each.way for each in report.series)
    lines = [
        ChartSeries(way, [(each.streams, each.rate) for each in report.series if each.way == way and each.streams])
        for way in ways
    ]
    moments = report.moments
    parts = [("prompt", 0.0, moments[0]), ("answer", moments[0], moments[-1])] if moments else []
    return [
        ("Speed over streams", chart(lines, ChartAxis("streams"), ChartAxis("tokens/s, all streams"))),
        ("Roofline", roofline(report.limits, report.points)),
        ("Time line of one answer", time_line(parts, moments)),
    ]


def roofline(limits: MachineLimits, points: Sequence[RooflinePoint]) -> str:
    """Return the roofline (Williams et al. 2009) of the measured limits, with a run's points."""
    knee = limits.int8_gmac_per_s / limits.read_gb_per_s
    most = max([knee * 8, *(point.macs_per_byte for point in points)])
    least = min([0.5, *(point.macs_per_byte for point in points)])
    roof = [(least, least * limits.read_gb_per_s), (knee, limits.int8_gmac_per_s), (most, limits.int8_gmac_per_s)]
    return chart(
        [
            ChartSeries("limit", roof, dotted=False),
            ChartSeries(
                "this run",
                [(point.macs_per_byte, point.gmac_per_s) for point in points],
                tuple(point.name for point in points),
                joined=False,
            ),
        ],
        ChartAxis("multiply-adds for each byte read", log=True),
        ChartAxis("10^9 multiply-adds/s", log=True),
    )


def load_sections(summaries: Sequence[LoadSummary], outcomes: Mapping[str, Sequence[RequestOutcome]]) -> list[Section]:
    """Return the charts of loads; ``outcomes`` are those of each load by its name."""
    open_loads = [each for each in summaries if each.rate_per_s is not None]
    sections: list[Section] = []
    if len(open_loads) > 1:
        sections += [("Answers over load", _rates(open_loads)), ("Latency over load", _latencies(open_loads))]
    sections.append(("Distribution of latencies", _distribution(outcomes)))
    shown = _typical([each for some in outcomes.values() for each in some if each.is_answered])
    if shown is not None:
        sections.append(("Time line of a typical request", _request_line(shown)))
    return sections


def _rates(loads: Sequence[LoadSummary]) -> str:
    series = [
        ChartSeries("offered", [(each.rate_per_s or 0.0, each.rate_per_s or 0.0) for each in loads], dotted=False),
        ChartSeries("answered", [(each.rate_per_s or 0.0, each.answered_per_s) for each in loads]),
        ChartSeries("goodput", [(each.rate_per_s or 0.0, each.goodput_per_s) for each in loads]),
    ]
    return chart(series, ChartAxis("requests/s"), ChartAxis("answers/s"))


def _latencies(loads: Sequence[LoadSummary]) -> str:
    series = [
        ChartSeries(
            f"{name.upper()} p{percent}",
            [(each.rate_per_s or 0.0, each.latencies[name].percentiles_ms[percent]) for each in loads],
        )
        for name in ("ttft", "e2e")
        for percent in (50, 99)
    ]
    return chart(series, ChartAxis("requests/s"), ChartAxis("ms", log=True))


def _distribution(outcomes: Mapping[str, Sequence[RequestOutcome]]) -> str:
    series = []
    for name, some in outcomes.items():
        times = sorted(1e3 * each.e2e_s for each in some if each.e2e_s is not None)
        step = max(1, math.ceil(len(times) / MAX_ECDF_POINTS))
        points = [(time_ms, (at + 1) / len(times)) for at, time_ms in enumerate(times)]
        series.append(ChartSeries(name, [*points[::step], *points[-1:]], dotted=len(points) < 2))
    return chart(series, ChartAxis("E2E, ms", log=True), ChartAxis("share of answers"))


def _typical(answered: Sequence[RequestOutcome]) -> RequestOutcome | None:
    """Return the answer of median time."""
    ordered = sorted(answered, key=lambda each: each.e2e_s or 0.0)
    return ordered[len(ordered) // 2] if ordered else None


def _request_line(shown: RequestOutcome) -> str:
    sent = (shown.sent_s or shown.due_s) - shown.due_s
    first = (shown.first_s or shown.done_s or 0.0) - shown.due_s
    last = (shown.done_s or 0.0) - shown.due_s
    parts = [("until sent", 0.0, sent), ("until the first text", sent, first), ("answer", first, last)]
    return time_line(parts, [at_s - shown.due_s for at_s in shown.pieces_s])
