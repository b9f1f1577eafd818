"""``miaotui bench serve`` and ``miaotui bench load``: loads on a server, and on the engine without one.

Owns which loads are played for which options. Knows neither HTTP nor the engine: both are a `Target`. Invariants: what
was measured is printed, also when every request failed (the exit status is 1 then); prompts never repeat between the
loads of a run unless that was asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from miaotui.bench.html.page import load_sections
from miaotui.bench.load.arrivals import Arrivals, read_trace
from miaotui.bench.load.outcome import RequestOutcome
from miaotui.bench.load.play import play_closed, play_open
from miaotui.bench.load.prompts import PromptPlan, planned_at, read_prompts
from miaotui.bench.load.report import load_notes, load_table
from miaotui.bench.load.scenarios import ScenarioResult, scenario_result
from miaotui.bench.load.summary import LatencyTargets, LoadSummary, summarised
from miaotui.bench.load.sweep import sustained_rate, sweep
from miaotui.bench.load.target import AskOptions, Target
from miaotui.bench.quality import NOT_MEASURED, ModelQuality
from miaotui.cli.bench.bench import INTERRUPTED, INTERRUPTED_LINE, finish, machine, note, until_interrupted
from miaotui.errors import RequestError

FAILED = 1
WARM_UP = 1_000_000_000  # number of the first prompt that is not counted
OFFLINE_REQUESTS = 64
LEAST_REQUESTS = 12  # of each rate of a sweep, about
LIGHT = 0.25  # of one stream's answers per second: where a sweep begins
QUALITY_OF_SERVER = "quality not measured: a server does not show its weights; run miaotui bench MODEL beside it"


@dataclass
class _Run:
    """One run of loads on a target."""

    target: Target
    chosen: argparse.Namespace
    plan: PromptPlan
    arrivals: Arrivals
    targets: LatencyTargets
    number: int = 0  # of the next prompt
    loads: list[tuple[LoadSummary, list[RequestOutcome]]] = field(default_factory=list)
    scenario: ScenarioResult | None = None
    is_whole: bool = True  # not interrupted

    async def play(self) -> None:
        """Play all loads of the options."""
        await play_open(self.target, [self.plan.planned(self._take(1))])  # not counted
        chosen = self.chosen
        if chosen.scenario == "offline":
            await self.offline(chosen.requests or OFFLINE_REQUESTS)
        elif chosen.scenario == "single-stream":
            await self.closed(1)
        elif chosen.streams:
            for streams in chosen.streams:
                await self.closed(streams)
        elif chosen.rate:
            for rate in chosen.rate:
                await self.open(rate)
        else:
            await sweep(self.level, await self._light_rate(), lambda _: None)
        self._judge()

    async def open(self, rate_per_s: float, duration_s: float | None = None) -> LoadSummary:
        """Play one open load."""
        lasts_s = duration_s or self.chosen.duration
        times = self.arrivals.times_s(rate_per_s, lasts_s, self.chosen.seed)
        planned = planned_at(times, self.plan, self._take(len(times)), self.arrivals.trace)
        outcomes = await play_open(self.target, planned)
        return self._keep(outcomes, lasts_s, rate_per_s)

    async def level(self, rate_per_s: float) -> LoadSummary:
        """Play one rate of a sweep, for so long that several requests come."""
        return await self.open(rate_per_s, max(self.chosen.duration, LEAST_REQUESTS / rate_per_s))

    async def closed(self, streams: int) -> None:
        """Play one closed load."""
        first = self.number
        planned = (self.plan.planned(first + at) for at in itertools.count())
        outcomes = await play_closed(self.target, planned, streams, self.chosen.duration)
        self._take(len(outcomes))
        lasted_s = max((each.done_s or 0.0 for each in outcomes), default=0.0)
        self._keep(outcomes, max(lasted_s, 1e-3), streams=streams)

    async def offline(self, count: int) -> None:
        """Play all requests at once."""
        first = self._take(count)
        outcomes = await play_open(self.target, [self.plan.planned(first + at) for at in range(count)])
        lasted_s = max((each.done_s or 0.0 for each in outcomes), default=0.0)
        self._keep(outcomes, max(lasted_s, 1e-3))

    async def _light_rate(self) -> float:
        """Return a rate that leaves a single stream mostly idle."""
        first = self.number
        planned = (self.plan.planned(first + at) for at in itertools.count())
        outcomes = await play_closed(self.target, planned, 1, 1.0, least=3)
        self._take(len(outcomes))
        times = [each.e2e_s for each in outcomes if each.e2e_s]
        return LIGHT * len(times) / sum(times) if times else 1.0

    def _take(self, count: int) -> int:
        first, self.number = self.number, self.number + count
        return first

    def _keep(
        self,
        outcomes: list[RequestOutcome],
        duration_s: float,
        rate_per_s: float | None = None,
        streams: int | None = None,
    ) -> LoadSummary:
        summary = summarised(outcomes, duration_s, self.targets, rate_per_s, self.chosen.deadline_ms, streams)
        self.loads.append((summary, outcomes))
        note(f"{summary.name}: {summary.answered} of {summary.asked} answered, goodput {summary.goodput_per_s:.3g}/s")
        return summary

    def by_rate(self) -> list[tuple[LoadSummary, list[RequestOutcome]]]:
        """Return loads with their outcomes, from the lowest rate to the highest; others in their order."""
        return sorted(self.loads, key=lambda load: load[0].rate_per_s or 0.0)

    def _judge(self) -> None:
        """Give the scenario its number: of a server, that of the highest rate that is valid, else of the lowest."""
        name = self.chosen.scenario
        if name is None:
            return
        least_s = 0.9 * self.chosen.duration  # arrivals are random: the last one is due before the end
        found = [
            scenario_result(name, each, least_s=least_s, bound_ms=self.targets.e2e_ms, rate_per_s=summary.rate_per_s)
            for summary, each in self.by_rate()
        ]
        valid = [each for each in found if each.is_valid]
        self.scenario = valid[-1] if valid else found[0]


def bench_server(url: str, chosen: argparse.Namespace) -> int:
    """Play loads on a server; return the exit status."""
    from miaotui.bench.load.http_target import HttpTarget, first_model

    key = os.environ.get("OPENAI_API_KEY") or None

    runs: list[_Run] = []

    async def main() -> None:
        model = chosen.model or await first_model(url, key)
        target = HttpTarget(url, model, ask_options(chosen), route=chosen.route, key=key)
        try:
            await _played(target, chosen, runs)
        finally:
            await target.close()

    run = _begun(until_interrupted(main), runs)
    return _finish(run, f"{run.target.name} at {url}", QUALITY_OF_SERVER, {"bench": "serve", "url": url}, None)


def bench_engine(name: str, chosen: argparse.Namespace) -> int:
    """Play loads on the engine in this process; return the exit status."""
    from miaotui.async_llm import load_async
    from miaotui.bench.load.engine_target import EngineTarget
    from miaotui.cli.bench.model import measured_quality
    from miaotui.cli.output.progress import ProgressBars

    runs: list[_Run] = []
    quality: ModelQuality | None = None

    async def main() -> None:
        nonlocal quality
        with ProgressBars() as progress:
            llm = await load_async(
                name,
                format=chosen.format,
                threads=chosen.threads,
                kv=chosen.kv,
                speculate=chosen.speculate,
                progress=progress,
            )
        async with llm:
            quality = await asyncio.to_thread(measured_quality, name, llm)
            await _played(EngineTarget(llm, name, ask_options(chosen)), chosen, runs)

    run = _begun(until_interrupted(main), runs)
    line = NOT_MEASURED if quality is None else quality.text()
    return _finish(run, f"{name}, without HTTP", line, {"bench": "load"}, quality)


def ask_options(chosen: argparse.Namespace) -> AskOptions:
    """Return how requests are asked."""
    deadline_ms = getattr(chosen, "deadline_ms", None)
    return AskOptions(chosen.timeout, chosen.stall, deadline_ms, bool(chosen.ignore_eos), chosen.temperature)


def prompt_plan(chosen: argparse.Namespace) -> PromptPlan:
    """Return the prompts that the options ask for."""
    texts = () if chosen.prompts is None else read_prompts(Path(chosen.prompts))
    repeat = bool(getattr(chosen, "repeat_prompts", None))
    return PromptPlan(chosen.input_tokens, chosen.output_tokens, chosen.seed, repeat, texts)


def _begun(is_whole: bool, runs: Sequence[_Run]) -> _Run:
    """Return the run. Raises `KeyboardInterrupt` if it was interrupted before there was anything to show."""
    if not is_whole:
        if not runs or not runs[0].loads:
            raise KeyboardInterrupt
        runs[0].is_whole = False
    return runs[0]


async def _played(target: Target, chosen: argparse.Namespace, runs: list[_Run]) -> None:
    """Play all loads of the options; the run is in ``runs`` as soon as it begins."""
    if (chosen.arrivals == "trace") != (chosen.trace is not None):
        raise RequestError("--arrivals trace and --trace FILE belong together: give both or neither")
    if chosen.scenario is not None and chosen.streams:
        raise RequestError("--scenario says how requests come: leave --streams away")
    trace = () if chosen.trace is None else read_trace(Path(chosen.trace))
    arrivals = Arrivals(chosen.arrivals, chosen.cv, trace)
    targets = LatencyTargets(chosen.e2e_ms or chosen.deadline_ms, chosen.ttft_ms, chosen.tpot_ms)
    if chosen.scenario == "server" and targets.e2e_ms is None:
        raise RequestError("the scenario server needs its bound of latency: --e2e-ms")
    run = _Run(target, chosen, prompt_plan(chosen), arrivals, targets)
    runs.append(run)
    await run.play()


def _finish(run: _Run, title: str, quality_line: str, values: dict[str, Any], quality: Any) -> int:
    chosen = run.chosen
    loads = run.by_rate()
    summaries = [each for each, _ in loads]
    about = [f"{title}; {_arrivals(chosen)}, {chosen.duration:g} s each, seed {chosen.seed}", quality_line]
    if not run.is_whole:
        about.append(INTERRUPTED_LINE)
    rate = sustained_rate([each for each in summaries if each.rate_per_s is not None])
    if rate is not None and len(summaries) > 1:
        about.append(f"sustained: {rate:.3g} requests/s")
    if run.scenario is not None:
        about.append(run.scenario.text())
    about += load_notes(summaries, run.targets)
    values = {
        **values,
        "model": run.target.name,
        "machine": machine(),
        "options": vars(chosen),
        "interrupted": not run.is_whole,
        "quality": None if quality is None else vars(quality),
        "sustained_per_s": rate,
        "scenario": None if run.scenario is None else vars(run.scenario),
        "loads": [each.as_dict() for each in summaries],
    }
    sections = partial(load_sections, loads)
    finish(f"miaotui bench: {title}", about, load_table(summaries), _plain(values), chosen.html, sections)
    if not run.is_whole:
        return INTERRUPTED
    return 0 if any(each.answered for each in summaries) else FAILED


def _arrivals(chosen: argparse.Namespace) -> str:
    if chosen.scenario in ("offline", "single-stream") or chosen.streams:
        return chosen.scenario or "closed load"
    return f"{chosen.arrivals} arrivals" + (f" (cv {chosen.cv:g})" if chosen.arrivals == "gamma" else "")


def _plain(value: Any) -> Any:
    """Return values without numbers that JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
