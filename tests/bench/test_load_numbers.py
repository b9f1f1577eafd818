"""Arithmetic of loads: arrivals, prompts, percentiles, goodput, scenarios and sweeps, against slow definitions."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.bench.compare import paired_ratio
from miaotui.bench.load import outcome as ends
from miaotui.bench.load.arrivals import Arrivals, TracedRequest, read_trace
from miaotui.bench.load.outcome import RequestOutcome
from miaotui.bench.load.play import play_closed, play_open
from miaotui.bench.load.prompts import OWN_WORDS, PlannedRequest, PromptPlan, own_words, planned_at, read_prompts
from miaotui.bench.load.report import load_notes, load_table
from miaotui.bench.load.scenarios import least_count, scenario_result, upper_bound
from miaotui.bench.load.summary import LatencySummary, LatencyTargets, LoadSummary, summarised
from miaotui.bench.load.sweep import is_sustained, sustained_rate, sweep
from miaotui.bench.load.target import LoadClock
from miaotui.errors import RequestError

seconds = st.floats(0.001, 100, allow_nan=False)


def answered(due_s: float, pieces_s: list[float], tokens: int | None = None) -> RequestOutcome:
    found = RequestOutcome(0, due_s, 10_000)
    found.sent_s, found.claimed_tokens = due_s, len(pieces_s) if tokens is None else tokens
    for at_s in pieces_s:
        found.piece(at_s, 1)
    found.ended(ends.ANSWERED, pieces_s[-1])
    return found


# ---- arrivals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrivals", "cv"), [(Arrivals("poisson"), 1.0), (Arrivals("gamma", 3.0), 3.0), (Arrivals("uniform"), 0.0)]
)
def test_gaps_have_the_mean_and_the_dispersion_of_their_process(arrivals: Arrivals, cv: float) -> None:
    times = arrivals.times_s(50.0, 400.0, seed=1)
    gaps = np.diff(times)
    assert len(times) / 400 == pytest.approx(50, rel=0.02 + 0.02 * cv)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(cv, abs=0.1 * cv + 1e-9)


@given(st.sampled_from(["poisson", "gamma", "uniform"]), st.floats(0.5, 200), st.floats(0.1, 20), st.integers(0, 99))
def test_arrivals_are_a_function_of_their_seed(kind: Any, rate: float, duration: float, seed: int) -> None:
    arrivals = Arrivals(kind)
    times = arrivals.times_s(rate, duration, seed)
    assert times == sorted(times) == arrivals.times_s(rate, duration, seed)
    assert all(0 <= each < duration for each in times)


def test_seeds_differ() -> None:
    assert Arrivals().times_s(10, 10, 1) != Arrivals().times_s(10, 10, 2)


def test_a_trace_is_scaled_and_repeated(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    rows = [
        '{"timestamp": 1000, "input_length": 5, "output_length": 6}',
        '{"at_s": 4, "input_tokens": 9}',
        "",
        '{"at_s": 3}',
    ]
    path.write_text("\n".join(rows))
    trace = read_trace(path)
    assert trace == (TracedRequest(1.0, 5, 6), TracedRequest(3.0), TracedRequest(4.0, 9))
    times = Arrivals("trace", trace=trace).times_s(2.0, 4.0, 0)
    assert times == pytest.approx([2 / 3, 1.0, 1 + 2 / 3, 2.0, 2 + 2 / 3, 3.0, 3 + 2 / 3])
    planned = planned_at(times, PromptPlan((20, 30), (7, 8)), 0, trace)
    assert len(planned[1].prompt.split()) == 9  # the trace's third line, after its second gap
    assert planned[0].max_tokens in (7, 8)


@pytest.mark.parametrize(
    "lengths", ['"input_length": -4', '"output_tokens": 1e99', '"input_tokens": Infinity', '"input_length": []']
)
def test_lengths_that_cannot_be_are_named(lengths: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at_s": 0}\n{"at_s": 1, ' + lengths + "}")
    with pytest.raises(RequestError, match=r"line 2.*length"):
        read_trace(path)


def test_a_load_without_requests_is_not_called_saturated() -> None:
    summary = summarised([], 1.0, LatencyTargets(), 0.1)
    assert "saturated" not in load_table([summary])
    assert any("lengthen --duration" in line for line in load_notes([summary], LatencyTargets()))


@pytest.mark.parametrize("text", ["17", "{}", '{"at_s": "x"}', '{"at_s": -1}', '{"at_s": NaN}', "[" * 9999, "\ud800"])
def test_a_trace_of_something_else(text: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RequestError):
        read_trace(path)


def test_loads_are_bounded() -> None:
    with pytest.raises(RequestError, match="--rate"):
        Arrivals().times_s(1e6, 1e6, 0)
    with pytest.raises(RequestError, match="two requests"):
        Arrivals("trace").times_s(1, 1, 0)


# ---- prompts -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 31), st.sets(st.integers(0, 1_000_000), min_size=2, max_size=50))
def test_no_prompt_comes_twice(seed: int, numbers: set[int]) -> None:
    assert len({own_words(number, seed) for number in numbers}) == len(numbers)


def test_prompts_have_their_lengths_and_begin_with_words_of_their_own() -> None:
    plan = PromptPlan((5, 9), (2, 3), seed=4)
    found = [plan.planned(number) for number in range(200)]
    assert {len(each.prompt.split()) for each in found} == {5, 6, 7, 8, 9}
    assert {each.max_tokens for each in found} == {2, 3}
    assert len({tuple(each.prompt.split()[:OWN_WORDS]) for each in found}) == 200
    assert plan.planned(7) == found[7]


def test_prompts_repeat_when_asked() -> None:
    plan = PromptPlan((5, 9), (2, 3), seed=4, repeat=True)
    assert plan.planned(1).prompt == plan.planned(2).prompt


def test_prompts_of_a_file_are_used_once(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "One"}\n{"prompt": "Two"}\n')
    plan = PromptPlan(texts=read_prompts(path))
    assert [plan.planned(number).prompt for number in (0, 1)] == ["One", "Two"]
    with pytest.raises(RequestError, match="more than the 2 prompts"):
        plan.planned(2)
    path.write_text('{"prompt": 3}\n')
    with pytest.raises(RequestError, match="line 1"):
        read_prompts(path)


# ---- summaries ---------------------------------------------------------------------------------------------------


@given(st.lists(seconds, min_size=1, max_size=60), st.integers(0, 100))
def test_percentiles_are_those_of_their_definition(values: list[float], percent: int) -> None:
    """Linear interpolation between closest ranks, written out."""
    ordered = sorted(values)
    place = percent / 100 * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    expected = low + (high - low) * (place - math.floor(place))
    found = LatencySummary.of([*values, None], (percent,))
    assert found.percentiles_ms[percent] == pytest.approx(1e3 * expected)
    assert found.mean_ms == pytest.approx(1e3 * fmean(values))
    assert found.count == len(values)


def test_without_answers_there_are_no_latencies() -> None:
    summary = summarised([RequestOutcome(0, 0.0, 4)], 1.0, LatencyTargets(e2e_ms=5))
    assert (summary.asked, summary.failed, summary.goodput_per_s) == (1, 1, 0.0)
    assert summary.latencies["ttft"].as_dict()["p50_ms"] is None


@given(st.lists(st.tuples(seconds, seconds, st.booleans()), min_size=1, max_size=40), st.floats(1, 1e5))
def test_goodput_counts_whole_answers_in_time(each: list[tuple[float, float, bool]], limit_ms: float) -> None:
    outcomes = []
    for due_s, took_s, whole in each:
        outcome = answered(due_s, [due_s + took_s / 2, due_s + took_s])
        if not whole:
            outcome.ended(ends.CLOSED_EARLY, due_s + took_s)
        outcomes.append(outcome)
    summary = summarised(outcomes, 4.0, LatencyTargets(e2e_ms=limit_ms), 1.0, limit_ms)
    good = sum(whole and (due_s + took_s - due_s) * 1e3 <= limit_ms for due_s, took_s, whole in each)
    assert summary.goodput_per_s == good / (4.0 + (summary.tail_s if summary.tail_s > 1.0 else 0.0))
    assert summary.asked == len(each) == summary.answered + summary.refused + summary.failed


def test_latencies_count_from_the_due_moment() -> None:
    """A request that its client sent late is not fast (coordinated omission)."""
    late = answered(1.0, [3.0, 3.5, 4.0], tokens=5)
    late.sent_s = 2.5
    assert late.ttft_s == 2.0
    assert late.e2e_s == 3.0
    assert late.tpot_s == pytest.approx(0.25)
    assert late.itl_s == [0.5, 0.5]
    assert late.late_s == 1.5


def test_promises_are_kept_by_the_clients_clock() -> None:
    kept, missed, refused = answered(0.0, [0.4]), answered(0.0, [1.2]), RequestOutcome(2, 0.0, 5)
    kept.promised = missed.promised = True
    refused.sent_s = 0.09
    refused.ended(ends.REFUSED, 0.1, "deadline_unattainable")
    summary = summarised([kept, missed, refused], 1.0, LatencyTargets(), 3.0, deadline_ms=1000)
    assert (summary.promised, summary.promises_kept, summary.refused) == (2, 1, 1)
    assert summary.latencies["refusal"].percentiles_ms[99] == pytest.approx(10)
    assert "3/s: refused within 10 / 10 ms (p50 / p99)" in load_notes([summary], LatencyTargets())


@pytest.mark.parametrize("name", ["ttft_ms", "tpot_ms", "e2e_ms"])
def test_each_target_counts(name: str) -> None:
    outcome = answered(0.0, [0.1, 0.2, 0.3])
    times = {"ttft_ms": 100, "tpot_ms": 100, "e2e_ms": 300}
    assert LatencyTargets(**{name: times[name] + 1}).met(outcome)
    assert not LatencyTargets(**{name: times[name] - 1}).met(outcome)


# ---- scenarios, sweeps, pairs ------------------------------------------------------------------------------------


def test_the_bound_of_a_quantile_holds_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).exponential(size=(400, 700))
    truth = -math.log(1 - 0.99)
    bounds = [upper_bound(list(row), 0.99) for row in draws]
    assert fmean(bound is not None and bound >= truth for bound in bounds) >= 0.975


def test_too_few_requests_bound_nothing() -> None:
    count = least_count(0.9)
    assert upper_bound([1.0] * (count - 1), 0.9) is None
    assert upper_bound([1.0] * count, 0.9) == 1.0
    assert (count, least_count(0.99)) == (44, 459)


def test_scenarios_have_their_number_and_their_validity() -> None:
    outcomes = [answered(at / 10, [at / 10 + 0.05]) for at in range(100)]
    single = scenario_result("single-stream", outcomes, least_s=5.0)
    assert (single.value, single.is_valid) == (pytest.approx(50), True)
    server = scenario_result("server", outcomes, least_s=5.0, bound_ms=100, rate_per_s=10)
    assert server.value is None
    assert "100 answers are too few: 459 are needed" in server.text()
    outcomes[3].ended(ends.STALLED, 3.0)
    assert "1 of 100 without an answer" in scenario_result("single-stream", outcomes, least_s=50.0).text()
    offline = scenario_result("offline", outcomes, least_s=0.0)
    assert offline.value == pytest.approx(99 / outcomes[-1].done_s)


def level_of(capacity: float) -> Any:
    """A server that answers so many requests per second, and no more."""

    async def level(rate: float) -> LoadSummary:
        count = round(rate * 10)
        good = min(count, int(capacity * 10))
        outcomes = [answered(at / rate, [at / rate + 0.1]) for at in range(good)]
        outcomes += [RequestOutcome(at, 0.0, 1) for at in range(count - good)]
        return summarised(outcomes, 10.0, LatencyTargets(), rate)

    return level


@settings(max_examples=25)
@given(st.floats(0.7, 20))
def test_a_sweep_finds_the_capacity(capacity: float) -> None:
    seen: list[LoadSummary] = []
    found = asyncio.run(sweep(level_of(capacity), 0.5, seen.append))
    best = sustained_rate(found)
    assert best is not None
    assert 0.5 * capacity <= best <= 1.06 * capacity + 0.1
    assert [each.rate_per_s for each in found] == sorted(each.rate_per_s or 0 for each in seen)
    assert any(not is_sustained(each) for each in found)


def test_a_sweep_goes_on_where_some_requests_can_never_be_good() -> None:
    async def level(rate: float) -> LoadSummary:
        whole = await level_of(8.0)(rate)
        return replace(whole, in_time=round(0.8 * whole.in_time))

    found = asyncio.run(sweep(level, 2.0, lambda _: None))
    assert [each.rate_per_s for each in found] == [2, 4, 8, 16]
    assert sustained_rate(found) is None
    gone = asyncio.run(sweep(level_of(0.0), 0.5, lambda _: None))
    assert len(gone) == 1


def queued(rate: float, capacity: float, duration_s: float = 10.0) -> LoadSummary:
    """A server that answers everything, one after another, each in the time that its capacity leaves."""
    free_s, outcomes = 0.0, []
    for at in range(round(rate * duration_s)):
        due_s = at / rate
        free_s = max(free_s, due_s) + 1 / capacity
        outcomes.append(answered(due_s, [free_s]))
    return summarised(outcomes, duration_s, LatencyTargets(), rate)


@pytest.mark.parametrize(("rate", "sustained"), [(2.0, True), (3.9, True), (4.1, True), (6.0, False), (12.0, False)])
def test_a_line_that_is_worked_off_later_is_no_capacity(rate: float, sustained: bool) -> None:
    found = queued(rate, 4.0)
    assert found.answered == found.asked
    assert is_sustained(found) is sustained
    assert found.goodput_per_s <= 4.0 * 1.05
    assert any("a line grew" in each for each in load_notes([found], LatencyTargets())) is not sustained


@given(st.lists(st.tuples(seconds, seconds), min_size=1, max_size=30))
def test_a_ratio_is_the_median_over_pairs(pairs: list[tuple[float, float]]) -> None:
    found = paired_ratio("x", pairs)
    assert found.ratio == pytest.approx(float(np.median([b / a for a, b in pairs])))
    assert found.low <= found.ratio * (1 + 1e-9)
    assert found.high >= found.ratio * (1 - 1e-9)
    assert paired_ratio("x", pairs) == found


def test_a_ratio_says_when_it_shows_nothing() -> None:
    assert paired_ratio("x", [(1.0, 2.0)] * 5).verdict == "B is higher"
    assert paired_ratio("x", [(1.0, 2.0), (2.0, 1.0)] * 5).verdict == "no difference shown"
    assert paired_ratio("x", [(0.0, 1.0)]).pairs == 0


# ---- play --------------------------------------------------------------------------------------------------------


class _Sleeper:
    """Answers everything after the same time."""

    name = "sleeper"

    def __init__(self, took_s: float) -> None:
        self.took_s, self.open, self.most = took_s, 0, 0

    async def ask(self, planned: PlannedRequest, outcome: RequestOutcome, clock: LoadClock) -> None:
        outcome.sent_s = clock()
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(self.took_s)
        self.open -= 1
        outcome.ended(ends.ANSWERED, clock())

    async def close(self) -> None:
        """Nothing to end."""


def test_in_an_open_load_no_request_waits_for_another() -> None:
    target = _Sleeper(0.2)
    planned = [PlannedRequest(at / 100, "x", 1, at) for at in range(10)]
    found = asyncio.run(play_open(target, planned))
    assert target.most == 10
    assert [each.due_s for each in found] == [each.at_s for each in planned]
    assert all(each.late_s >= 0 for each in found)


def test_an_open_load_has_a_bound() -> None:
    found = asyncio.run(play_open(_Sleeper(0.1), [PlannedRequest(0.0, "x", 1, at) for at in range(5)], most_open=2))
    assert [each.end for each in found] == [ends.ANSWERED] * 2 + [ends.LEFT_OUT] * 3


def test_a_closed_load_keeps_so_many_open() -> None:
    target = _Sleeper(0.02)
    planned = [PlannedRequest(0.0, "x", 1, at) for at in range(12)]
    found = asyncio.run(play_closed(target, planned, 3, 60.0))
    assert target.most == 3
    assert sorted(each.number for each in found) == list(range(12))
    assert all(each.is_answered for each in found)


def test_a_closed_load_begins_nothing_when_its_time_is_over() -> None:
    planned = (PlannedRequest(0.0, "x", 1, at) for at in range(10_000))
    found = asyncio.run(play_closed(_Sleeper(0.0), planned, 3, 0.0, least=2))
    assert [each.number for each in found] == [0, 1]
