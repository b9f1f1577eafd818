"""Report of an evaluation: a table for people, and one JSON line for programs.

Owns both forms. Knows no metrics. Invariant: speed stands in the row of its quality.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from miaotui.bench.evaluation import EvaluatedWay
from miaotui.bench.scores import ScoreInterval

MB = 1 << 20


def table_of(ways: Sequence[EvaluatedWay]) -> str:
    """Return a row for each way: its quality with intervals, then its speed."""
    names = list(dict.fromkeys(name for way in ways for name in way.quality))
    head = ["", "items", "without answer", *names, "p50 [ms]", "p99 [ms]", "items/s", "CPU [s]", "peak [MB]"]
    rows = [head]
    for way in ways:
        cells = [_shown(way.quality[name]) if name in way.quality else "" for name in names]
        speed = [f"{1e3 * way.p50_s:.1f}", f"{1e3 * way.p99_s:.1f}", f"{way.items_per_s:.4g}", f"{way.cpu_s:.2f}"]
        peak = "" if way.peak_bytes is None else f"{way.peak_bytes / MB:.0f}"
        rows.append([way.name, str(way.items), str(way.unanswered), *cells, *speed, peak])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are as wide as their widest cell; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _shown(score: ScoreInterval) -> str:
    return f"{score.value:.4g} ({score.low:.4g} to {score.high:.4g})"


def json_line(task: str, protocol: Mapping[str, Any], ways: Sequence[EvaluatedWay]) -> str:
    """Return the evaluation as one line of JSON."""
    found = [vars(way) | {"quality": {name: score._asdict() for name, score in way.quality.items()}} for way in ways]
    return json.dumps({"task": task, "protocol": dict(protocol), "ways": found}, ensure_ascii=False)
