"""Pages of reports: speed of a model, loads on a server, and comparisons.

Owns which charts a report has. Knows no measurement. Invariants: a page is one file that asks for nothing else (its
policy forbids it); numbers that are shown are those of the JSON line. Words of a page are said by `words`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from miaotui.bench.html.charts import ChartAxis, ChartSeries, chart, time_line
from miaotui.bench.html.words import Say, words
from miaotui.config import cache_error

if TYPE_CHECKING:  # a load on a server needs no kernels
    from miaotui.bench.compare import Comparison
    from miaotui.bench.load.outcome import RequestOutcome
    from miaotui.bench.load.summary import LoadSummary
    from miaotui.bench.speed import MachineLimits, RooflinePoint, SpeedReport

    Load = tuple[LoadSummary, Sequence[RequestOutcome]]

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
pre { overflow-x: auto; background: color-mix(in srgb, currentColor 7%, transparent); padding: .8rem; \
font-size: .8rem; }
.table { overflow-x: auto; width: fit-content; min-width: 100%; max-width: min(100vw - 2rem, 76rem); \
position: relative; left: 50%; transform: translateX(-50%); }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid color-mix(in srgb, currentColor 18%, transparent); \
text-align: left; overflow-wrap: normal; } td { white-space: nowrap; }
th { vertical-align: bottom; word-break: keep-all; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; } figure { margin: 1rem 0; }
.grid { stroke: currentColor; opacity: .15; } .tick, .label, .mark { fill: currentColor; font-size: 11px; }
@media (max-width: 40rem) { .tick, .label { font-size: 17px; } .mark { font-size: 13px; } h1 { font-size: 1.5rem; } }
.piece { stroke: currentColor; opacity: .6; } .empty { opacity: .6; }
.legend span { margin-right: 1rem; font-size: .85rem; display: inline-block; }
.legend i { display: inline-block; width: .8em; height: .8em; \
margin-right: .3em; border-radius: 2px; }
"""
MAX_ECDF_POINTS = 400

Section = tuple[str, str]  # heading, HTML


def page(title: str, about: Sequence[str], sections: Sequence[Section], json_line: str, language: str = "en") -> str:
    """Return a report as HTML; ``language`` is ``en`` or ``zh``."""
    say = words(language)
    body = "".join(f"<section><h2>{escape(say(name))}</h2>{content}</section>" for name, content in sections)
    notes = "".join(f"<p>{escape(say(line))}</p>" for line in about)
    return (
        f'<!doctype html><html lang="{"zh-CN" if language == "zh" else "en"}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{notes}{body}"
        f"<section><h2>JSON</h2><details><summary>{escape(say('the line that programs read'))}</summary>"
        f'<pre tabindex="0">{escape(json_line)}</pre>'
        "</details></section></body></html>\n"
    )


def write_page(path: Path, text: str) -> None:
    """Write a report. Raises `CacheError` with the remedy where it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise cache_error(error, path) from error


def table_section(table: str, say: Say = str) -> Section:
    """Return the Markdown table that the command prints, as one of HTML."""
    head, _, *rows = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in table.splitlines()]
    first = rows[0] if rows else head
    heads = "".join(
        f'<th scope="col"{_kind(like)}>{escape(say(cell))}</th>' for cell, like in zip(head, first, strict=False)
    )
    body = "".join(f"<tr>{''.join(f'<td{_kind(cell)}>{escape(say(cell))}</td>' for cell in row)}</tr>" for row in rows)
    shown = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return (
        "Numbers",
        f'<div class="table" tabindex="0" role="group" aria-label="{escape(say("Numbers"))}">{shown}</div>',
    )


def _kind(text: str) -> str:
    """Return the class of a cell with such a text, or of the heading above it."""
    return ' class="number"' if text[:1].isdigit() or text == "-" else ""


def speed_sections(report: SpeedReport, say: Say = str) -> list[Section]:
    """Return the charts of one model's speed."""
    ways = dict.fromkeys(each.way for each in report.series)
    lines = [
        ChartSeries(say(way), [(each.streams, each.rate) for each in report.series if each.way == way and each.streams])
        for way in ways
    ]
    moments = report.moments
    parts = [(say("prompt"), 0.0, moments[0]), (say("answer"), moments[0], moments[-1])] if moments else []
    return [
        ("Speed over streams", chart(lines, ChartAxis(say("streams")), ChartAxis(say("tokens/s, all streams")))),
        ("Roofline", roofline(report.limits, report.points, say)),
        ("Time line of one answer", time_line(parts, moments)),
    ]


def roofline(limits: MachineLimits, points: Sequence[RooflinePoint], say: Say = str) -> str:
    """Return the roofline (Williams et al. 2009) of the measured limits, with a run's points."""
    knee = limits.int8_gmac_per_s / limits.read_gb_per_s
    most = max([knee * 8, *(point.macs_per_byte for point in points)])
    least = min([0.5, *(point.macs_per_byte for point in points)])
    roof = [(least, least * limits.read_gb_per_s), (knee, limits.int8_gmac_per_s), (most, limits.int8_gmac_per_s)]
    return chart(
        [
            ChartSeries(say("limit"), roof, dotted=False),
            ChartSeries(
                say("this run"),
                [(point.macs_per_byte, point.gmac_per_s) for point in points],
                tuple(say(point.name) for point in points),
                joined=False,
            ),
        ],
        ChartAxis(say("multiply-adds for each byte read"), log=True),
        ChartAxis(say("10^9 multiply-adds/s"), log=True),
    )


def load_sections(loads: Sequence[Load], say: Say = str) -> list[Section]:
    """Return the charts of loads, each a summary with the outcomes that it is of."""
    open_loads = [each for each, _ in loads if each.rate_per_s is not None]
    closed_loads = [each for each, _ in loads if each.streams is not None]
    sections: list[Section] = []
    if len(open_loads) > 1:
        sections += [("Answers over load", _rates(open_loads, say)), ("Latency over load", _latencies(open_loads, say))]
    if len(closed_loads) > 1:
        sections.append(("Speed over streams", _closed(closed_loads, say)))
    sections.append(("Distribution of latencies", _distribution(loads, say)))
    shown = _typical([each for _, some in loads for each in some if each.is_answered])
    if shown is not None:
        sections.append(("Time line of a typical request", _request_line(shown, say)))
    return sections


def _rates(loads: Sequence[LoadSummary], say: Say) -> str:
    series = [
        ChartSeries(say("offered"), [(each.rate_per_s or 0.0, each.rate_per_s or 0.0) for each in loads], dotted=False),
        ChartSeries(say("answered"), [(each.rate_per_s or 0.0, each.answered_per_s) for each in loads]),
        ChartSeries(say("goodput"), [(each.rate_per_s or 0.0, each.goodput_per_s) for each in loads]),
    ]
    return chart(series, ChartAxis(say("requests/s")), ChartAxis(say("answers/s")))


def _closed(loads: Sequence[LoadSummary], say: Say) -> str:
    points = sorted((float(each.streams or 0), each.tokens_per_s) for each in loads)
    return chart(
        [ChartSeries(say("tokens/s"), points)], ChartAxis(say("streams")), ChartAxis(say("tokens/s, all streams"))
    )


def _latencies(loads: Sequence[LoadSummary], say: Say) -> str:
    series = [
        ChartSeries(
            f"{name.upper()} p{percent}",
            [(each.rate_per_s or 0.0, each.latencies[name].percentiles_ms[percent]) for each in loads],
        )
        for name in ("ttft", "e2e")
        for percent in (50, 99)
    ]
    return chart(series, ChartAxis(say("requests/s")), ChartAxis(say("ms"), log=True))


def _distribution(loads: Sequence[Load], say: Say) -> str:
    series = []
    for summary, some in loads:
        times = sorted(1e3 * each.e2e_s for each in some if each.e2e_s is not None)
        step = max(1, math.ceil(len(times) / MAX_ECDF_POINTS))
        points = [(time_ms, (at + 1) / len(times)) for at, time_ms in enumerate(times)]
        series.append(ChartSeries(say(summary.name), [*points[::step], *points[-1:]], dotted=len(points) < 2))
    return chart(series, ChartAxis(say("E2E, ms"), log=True), ChartAxis(say("share of answers")))


def _typical(answered: Sequence[RequestOutcome]) -> RequestOutcome | None:
    """Return the answer of median time."""
    ordered = sorted(answered, key=lambda each: each.e2e_s or 0.0)
    return ordered[len(ordered) // 2] if ordered else None


def compare_sections(found: Comparison, say: Say = str) -> list[Section]:
    """Return the chart of a comparison: each pair's ratio of every metric."""
    series = [
        ChartSeries(say(metric), [(at + 1, b / a) for at, (a, b) in enumerate(pairs) if a > 0])
        for metric, pairs in found.samples.items()
    ]
    count = max((len(pairs) for pairs in found.samples.values()), default=0)
    equal = ChartSeries(say("equal"), [(1.0, 1.0), (float(count), 1.0)] if count else [], dotted=False)
    pair_axis = ChartAxis(say("pair"), from_zero=False)
    return [("Ratio of each pair", chart([*series, equal], pair_axis, ChartAxis("B / A", log=True)))]


def _request_line(shown: RequestOutcome, say: Say) -> str:
    sent = (shown.sent_s or shown.due_s) - shown.due_s
    first = (shown.first_s or shown.done_s or 0.0) - shown.due_s
    last = (shown.done_s or 0.0) - shown.due_s
    names = [say(name) for name in ("until sent", "until the first text", "answer")]
    parts = list(zip(names, (0.0, sent, first), (sent, first, last), strict=True))
    return time_line(parts, [at_s - shown.due_s for at_s in shown.pieces_s])
