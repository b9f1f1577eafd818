"""``miaotui bench [MODEL]`` and ``miaotui bench base MODEL``: speed of a model here, and the base of its quality.

Owns how the model is opened, and the rows of the table. Knows no workloads. Invariant: both ways of running have the
same weights, and their quality is measured in the same process.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from functools import partial
from statistics import median

import miaotui
from miaotui.bench.html.page import speed_sections
from miaotui.bench.quality import (
    NOT_MEASURED,
    ModelQuality,
    base_of,
    quality_of,
    store_base,
    stored_base,
    text_tokens,
    weights_digest,
)
from miaotui.bench.report import aligned
from miaotui.bench.speed import WITH_DRAFTS, WITHOUT_DRAFTS, SpeedBench, SpeedPlan, SpeedReport
from miaotui.cli.bench.bench import INTERRUPTED, INTERRUPTED_LINE, finish, machine, note, settings
from miaotui.cli.output.progress import ProgressBars
from miaotui.hub.resolve import resolve
from miaotui.llm import Facade

DEFAULT_STREAMS = (1, 2, 4, 8, 16)
CONTEXT_TOKENS = 4096


def bench_model(name: str, chosen: argparse.Namespace) -> int:
    """Measure a model's speed and quality; return the exit status."""
    streams = chosen.streams or DEFAULT_STREAMS
    plan = SpeedPlan(streams, chosen.prompt_tokens, chosen.answer_tokens, chosen.repetitions, chosen.seed)
    with ExitStack() as stack, ProgressBars() as progress:
        ways = {
            way: stack.enter_context(
                miaotui.load(
                    name,
                    format=chosen.format,
                    threads=chosen.threads,
                    kv=chosen.kv,
                    context=max(CONTEXT_TOKENS, chosen.prompt_tokens + chosen.answer_tokens),
                    max_sequences=max(16, *streams),
                    speculate=way == WITH_DRAFTS,
                    progress=progress,
                )
            )
            for way in (WITHOUT_DRAFTS, WITH_DRAFTS)
        }
        first = ways[WITHOUT_DRAFTS]
        quality = measured_quality(name, first)
        report = SpeedBench(ways, plan, note).run()
    limits = report.limits
    lines = [
        f"{name} on {machine()['processor']}, {limits.threads} threads, seed {chosen.seed}",
        f"read limit {limits.read_gb_per_s:.1f} GB/s, 8-bit products {limits.int8_gmac_per_s:.0f} GMAC/s",
        NOT_MEASURED if quality is None else quality.text(),
    ]
    if not report.is_whole:
        lines.append(INTERRUPTED_LINE)
    values = {
        "bench": "model",
        "interrupted": not report.is_whole,
        "model": name,
        "seed": chosen.seed,
        "machine": machine(),
        "limits": vars(limits),
        "quality": None if quality is None else vars(quality),
        "series": [each.as_dict() for each in report.series],
    }
    finish(f"miaotui bench: {name}", lines, speed_table(report), values, chosen.html, partial(speed_sections, report))
    return 0 if report.is_whole else INTERRUPTED


def speed_table(report: SpeedReport) -> str:
    """Return a row for each workload and way."""
    rows = [["", "way", "tokens/s", "range", "each stream", "of the read limit", "tokens a pass"]]
    for each in report.series:
        low, high = min(each.rates), max(each.rates)
        share = f"{100 * median(each.shares):.0f}%" if each.shares else "-"
        passes = f"{median(each.tokens_per_pass):.2f}" if each.tokens_per_pass else "-"
        one = f"{each.rate / each.streams:.1f}" if each.streams else "-"
        rows.append([each.workload, each.way, f"{each.rate:.1f}", f"{low:.1f} to {high:.1f}", one, share, passes])
    return aligned(rows)


def measured_quality(name: str, llm: Facade) -> ModelQuality | None:
    """Return the quality of a loaded model by its stored base; None if there is none."""
    chosen = settings()
    tokens = text_tokens(llm.tokenizer, llm.context)
    base = stored_base(weights_digest(resolve(name, settings=chosen)), tokens, chosen)
    if base is None:
        return None
    return quality_of(llm.loop.logits(tokens), base)


def bench_base(name: str) -> int:
    """Make the base of a model's quality with the reference backend, and say where it is."""
    with ProgressBars() as progress, miaotui.load(name, backend="reference", progress=progress) as llm:
        tokens = text_tokens(llm.tokenizer, llm.context)
        base = base_of(llm.logits(tokens), tokens)
    path = store_base(weights_digest(resolve(name)), base, settings())
    print(f"{path}: {len(base.tokens)} places, {base.ids.shape[1]} tokens each, {path.stat().st_size:,} bytes")
    return 0
