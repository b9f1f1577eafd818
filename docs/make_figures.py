"""Writes ``figures.md`` and ``zh/figures.md`` from the JSON lines of `miaotui bench` that ``figures.jsonl`` holds.

``python docs/make_figures.py --add "miaotui bench ..." < LINE`` appends a line with its command.
A test compares the pages. Invariant: each figure is of a committed line, and stands beside its line about quality.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from miaotui.bench.load.scenarios import ScenarioResult
from miaotui.bench.quality import ModelQuality
from miaotui.bench.report import aligned

HERE = Path(__file__).parent
LINES = HERE / "figures.jsonl"
PAGES = {"en": HERE / "figures.md", "zh": HERE / "zh" / "figures.md"}
WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "title": "# Figures\n\n[中文](zh/figures.md)\n\n`make figures` writes this page from the JSON lines in "
        "`docs/figures.jsonl`; do not edit it. [Benchmarks](bench.md) says what the numbers mean.\n",
        "none": "quality not measured",
    },
    "zh": {
        "title": "# 数据\n\n[English](../figures.md)\n\n`make figures` 根据 `docs/figures.jsonl` 中的 JSON 行生成本页，"
        "请勿手工修改。各数字的含义见[基准测试](bench.md)。\n",
        "none": "quality not measured",
    },
}


def page(language: str) -> str:
    """Return the page in a language; tables are the same in both."""
    words = WORDS[language]
    lines = [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines() if line.strip()]
    parts = [words["title"]]
    for line in lines:
        machine = line["machine"]
        cores = _count(machine["cores"], "core")
        told = "; ".join(dict.fromkeys(_qualities(line))) or words["none"]
        about = f"{machine['processor']}, {cores}, {machine['isa']}, miaotui {machine['miaotui']}"
        parts.append(f"## `{line['command']}`\n\n{about}; {told}.{_remark(line)}\n\n{aligned([*_rows(line)])}\n")
    return "\n".join(parts)


def _qualities(line: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines about quality: one for a model, up to two for a comparison."""
    for each in (line.get("quality"), *line.get("qualities", ())):
        if each:
            yield ModelQuality(**each).text()


def _remark(line: Mapping[str, Any]) -> str:
    limits = line.get("limits")
    text = (
        f" Read limit {limits['read_gb_per_s']:.1f} GB/s with {_count(limits['threads'], 'thread')}." if limits else ""
    )
    if line.get("scenario"):
        text += f" {ScenarioResult(**line['scenario']).text()}."
    return text + (f" {line['remark']}" if line.get("remark") else "")


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _rows(line: Mapping[str, Any]) -> Iterator[list[str]]:
    if line["bench"] == "model":
        yield ["", "way", "tokens/s", "range", "of the read limit"]
        for each in line["series"]:
            share = f"{100 * each['share']:.0f}%" if each["share"] else "-"
            spread = f"{min(each['rates']):.1f} to {max(each['rates']):.1f}"
            yield [each["workload"], each["way"], f"{median(each['rates']):.1f}", spread, share]
    elif line["bench"] == "compare":
        yield ["", "A", "B", "B / A", "95% interval"]
        for each in line["ratios"]:
            numbers = [f"{each[name]:.4g}" for name in ("a", "b", "ratio")]
            yield [each["metric"], *numbers, f"{each['low']:.3f} to {each['high']:.3f}"]
    else:
        yield ["load", "asked", "answered", "TTFT p50 [ms]", "E2E p99 [ms]", "tokens/s", "goodput [1/s]"]
        for each in line["loads"]:
            latencies = each["latencies"]
            times = [latencies["ttft"]["p50_ms"], latencies["e2e"]["p99_ms"]]
            rate = f"{each['streams']} at a time" if each.get("streams") else "closed"
            if each["rate_per_s"] is not None:
                rate = f"{each['rate_per_s']:.3g}/s"
            shown = ["-" if time is None else f"{time:.4g}" for time in times]
            rates = [f"{each[name]:.4g}" for name in ("tokens_per_s", "goodput_per_s")]
            yield [rate, str(each["asked"]), str(each["answered"]), *shown, *rates]


def _add(command: str, remark: str) -> None:
    line = json.loads(sys.stdin.read().strip().splitlines()[-1])
    line.get("options", {}).pop("html", None)  # a path of this machine
    with LINES.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"command": command, "remark": remark, **line}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--add"]:
        _add(sys.argv[2], " ".join(sys.argv[3:]))
    for language, path in PAGES.items():
        path.write_text(page(language), encoding="utf-8")
