"""What follows the load, and that each change says why."""

from __future__ import annotations

import logging
import re

import pytest

from miaotui.schedule import ScheduleConfig
from miaotui.schedule.promises.cost import CostModel, CostRates, StepShape
from miaotui.schedule.promises.promise import CALM_S, PROMISES_S, WIDEN_S, LoadTuner

RATES = CostRates(((1, 0.003), (8, 0.005), (64, 0.026), (256, 0.105)), 1e-4, 1e-6)


@pytest.fixture
def adjuster(caplog: pytest.LogCaptureFixture) -> LoadTuner:
    caplog.set_level(logging.INFO, "miaotui.adjust")
    return LoadTuner(ScheduleConfig(64, 4000, 512, 8, 512), CostModel(RATES))


def test_chunks_are_small_while_promises_are_made_and_large_after(
    adjuster: LoadTuner, caplog: pytest.LogCaptureFixture
) -> None:
    assert adjuster.policy.chunk == 512
    policy = adjuster.follow(10.0, True, 1, 0)
    assert 100 < policy.chunk < 180
    assert "answers have due times" in caplog.text
    assert adjuster.follow(11.0, False, 1, 0) == policy
    assert adjuster.follow(11.0 + PROMISES_S, False, 1, 0).chunk == 512
    assert "no answer has a due time" in caplog.text


def test_chunks_shrink_when_the_machine_becomes_slower(adjuster: LoadTuner) -> None:
    before = adjuster.follow(10.0, True, 1, 0).chunk
    cost = adjuster._cost
    for _ in range(60):
        cost.observe(StepShape(64, 1, 0), 0.06)
    assert adjuster.follow(11.0, True, 1, 0).chunk < 0.6 * before


def test_width_falls_when_pages_run_out_and_comes_back(adjuster: LoadTuner, caplog: pytest.LogCaptureFixture) -> None:
    assert adjuster.follow(1.0, False, 5, 1).width == 5
    assert "batch width: 8 -> 5 (pages ran out)" in caplog.text
    now_s = 1.0
    while adjuster.policy.width < 8:
        now_s += CALM_S
        adjuster.follow(now_s, False, 5, 1)
    assert now_s > 1.0 + 2 * WIDEN_S
    assert "pages have sufficed" in caplog.text


def test_no_bound_flutters(adjuster: LoadTuner, caplog: pytest.LogCaptureFixture) -> None:
    for tick in range(400):
        adjuster.follow(tick / 100, tick % 7 == 0, 3, 0)
    assert len(caplog.records) <= 1


def test_a_number_of_threads_that_lasts_is_told_once(adjuster: LoadTuner, caplog: pytest.LogCaptureFixture) -> None:
    for tick in range(400):
        adjuster.tell_threads(tick / 100, 1 if 100 <= tick < 250 else 4)
    assert [record.getMessage() for record in caplog.records] == [
        "threads: 4 -> 1 (other work keeps a core busy)",
        "threads: 1 -> 4 (the cores are free again)",
    ]


def test_a_number_of_threads_that_passes_is_not_told(adjuster: LoadTuner, caplog: pytest.LogCaptureFixture) -> None:
    for tick in range(500):
        adjuster.tell_threads(tick / 100, 1 if 100 <= tick < 140 else 4)
    assert not caplog.records


def test_threads_that_come_and_go_are_counted(adjuster: LoadTuner, caplog: pytest.LogCaptureFixture) -> None:
    for tick in range(2700):  # nearly a minute, and 25 changes each second
        adjuster.tell_threads(tick / 50, 1 if tick % 4 >= 2 else 2)
    for tick in range(2700, 2900):
        adjuster.tell_threads(tick / 50, 2)
    *fluttering, last = [record.getMessage() for record in caplog.records]
    assert len(fluttering) == 5
    for line in fluttering:
        assert re.fullmatch(r"threads: 2\d\d changes in 10 s, [12] now \(.*\)", line)
    assert re.fullmatch(r"threads: 1 -> 2 \(the cores are free again; \d+ more changes before\)", last)
