"""Forecasts against the scheduler itself, step by step; and that they are quick."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest

from miaotui.schedule import ScheduleConfig, Scheduler
from miaotui.schedule.plan import StepLimits
from miaotui.schedule.promises.capacity import capacity
from miaotui.schedule.promises.cost import CostModel, CostRates, StepShape
from miaotui.schedule.promises.forecast import Job, SchedulingPolicy, forecast

RATES = CostRates(((1, 0.003), (8, 0.005), (64, 0.026), (256, 0.105)), 1e-4, 1e-6)
WIDTH, CHUNK = 6, 100


def played(jobs: list[Job]) -> dict[int, tuple[float, float]]:
    """First and last token of each when the scheduler really runs."""
    config = ScheduleConfig(4096, 4000, 600, WIDTH, 512, reuse_prefix=False)
    scheduler, cost, now_s = Scheduler(config), CostModel(RATES), 5.0
    for job in jobs:
        tokens = [job.number] * job.prompt_left
        score_from = 0 if job.is_scored else None
        scheduler.add(job.number, tokens, job.answer_left, due=int(job.order_s * 1e6), score_from=score_from)
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    while (plan := scheduler.plan({}, StepLimits(prompt_rows=CHUNK))).chunks:
        shape = StepShape.of(plan.chunks)
        now_s += cost.seconds(shape.rows, shape.logits, shape.attended)
        chosen = [chunk.sequence for chunk in plan.chunks if chunk.n_logits]
        scheduler.commit(plan, {number: [1] for number in chosen})
        for number in chosen:
            first.setdefault(number, now_s)
            last[number] = now_s
    return {number: (first[number], last[number]) for number in first}


@pytest.mark.parametrize("scored", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_forecasts_agree_with_what_the_scheduler_does(count: int, scored: float) -> None:
    """Also where a share of the prompts is ``scored``, whose rows all need logits."""
    source = random.Random(count)
    jobs = []
    for number in range(count):
        prompt, answer = source.randint(1, 900), source.randint(1, 200)
        due_s = 6.0 + source.random()
        scores = source.random() < scored
        jobs.append(Job(number, prompt, answer, due_s=due_s, order_s=due_s, arrival=number, is_scored=scores))
    found = forecast(jobs, CostModel(RATES), SchedulingPolicy(WIDTH, CHUNK), 5.0)
    real = played(jobs)
    assert found.keys() == real.keys()
    for number, (first_s, last_s) in real.items():
        assert abs(found[number].first_s - first_s) < 0.02 + 0.02 * (first_s - 5.0)
        assert abs(found[number].last_s - last_s) < 0.02 + 0.02 * (last_s - 5.0)


def test_running_jobs_go_on_from_where_they_are() -> None:
    cost = CostModel(RATES)
    job = Job(1, 0, 10, length=300, running=True)
    found = forecast([job], cost, SchedulingPolicy(WIDTH, CHUNK), 2.0)[1]
    expected = sum(cost.seconds(1, 1, 300 + step) for step in range(1, 11))
    assert abs(found.last_s - 2.0 - expected) < 1e-6


def test_adapters_lengthen_what_uses_them_and_what_runs_beside() -> None:
    cost, policy = CostModel(RATES), SchedulingPolicy(WIDTH, CHUNK)
    cost.price_adapter(1e-3)
    jobs = [Job(0, 40, 20, arrival=0), Job(1, 40, 20, arrival=1)]
    plain = forecast(jobs, cost, policy, 0.0)
    adapted = forecast([jobs[0], replace(jobs[1], is_adapted=True)], cost, policy, 0.0)
    more_s = 1e-3 * (40 + 19)
    assert abs(adapted[1].last_s - plain[1].last_s - more_s) < 2e-3
    assert adapted[0].last_s > plain[0].last_s


def test_who_is_due_later_waits_for_a_place() -> None:
    jobs = [Job(n, 50, 50, order_s=float(n), arrival=-n) for n in range(2 * WIDTH)]
    found = forecast(jobs, CostModel(RATES), SchedulingPolicy(WIDTH, CHUNK), 0.0)
    ends = [found[n].first_s for n in range(2 * WIDTH)]
    assert ends == sorted(ends)
    assert ends[WIDTH] > found[0].last_s


def test_prompts_due_later_wait_for_the_urgent() -> None:
    urgent = Job(0, 0, 20, length=50, running=True, order_s=1.0, due_s=1.0)
    later = Job(1, 300, 5, running=True, order_s=2.0, due_s=2.0)
    cost = CostModel(RATES)
    free = forecast([urgent, later], cost, SchedulingPolicy(WIDTH, CHUNK), 0.0)
    held = forecast([urgent, later], cost, SchedulingPolicy(WIDTH, CHUNK, until_s=1.0), 0.0)
    assert held[0].last_s < 0.07 < free[0].last_s
    assert held[1].first_s > held[0].last_s


def test_thirty_two_jobs_are_foreseen_in_two_milliseconds() -> None:
    source = random.Random(0)
    jobs = [Job(n, source.randint(40, 400), source.randint(16, 128)) for n in range(32)]
    cost, times = CostModel(RATES), []
    for _ in range(30):
        start_s = time.perf_counter()
        forecast(jobs, cost, SchedulingPolicy(16, 128), 0.0)
        times.append(time.perf_counter() - start_s)
    assert min(times) < 0.002


def test_a_long_prompt_costs_a_forecast_no_more_than_a_short_one() -> None:
    cost = CostModel(RATES)
    start_s = time.perf_counter()
    found = forecast([Job(0, 10**6, 10**6)], cost, SchedulingPolicy(16, 16), 0.0)
    assert time.perf_counter() - start_s < 0.05
    assert found[0].last_s > 100


def test_capacity_counts_people_who_come_at_once() -> None:
    cost = CostModel(RATES)
    found = capacity(cost, SchedulingPolicy(16, 512))
    assert found.alone_s < found.within_s
    assert 1 < found.people < 16
    text = str(found)
    assert text.startswith("answers of 120 tokens in 0.")
    assert f"{found.people} people at a time within 1 s" in text
