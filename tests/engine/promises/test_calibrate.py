"""Calibration, the answers before the first request, and the passes of an idle loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from miaotui.engine.calibrate import MOST_ROUNDS, calibrate, warm_up
from miaotui.engine.loop import EngineLoop
from miaotui.schedule.promises.cost import CostModel, CostRates
from tiny_engine import open_engine, open_loop
from tiny_models import make_tiny_folder

SLOW = CostRates(((1, 0.05), (8, 0.06), (64, 0.4)), 0.0, 0.0)  # far slower than a tiny model is


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    make_tiny_folder(place, "llama")
    return place


@pytest.fixture
def loop(folder: Path) -> Iterator[EngineLoop]:
    running = open_loop(folder / "llama-0", folder, cost=CostModel(SLOW))
    yield running
    running.close()


def test_calibration_covers_answers_and_prompts_however_slow_the_clock(folder: Path) -> None:
    engine = open_engine(folder / "llama-0", folder)
    rates = calibrate(engine.backend)
    rows = [rows for rows, _ in rates.curve]
    assert rows == sorted(set(rows))
    assert {1, 2, 4, 8, 32, 64} <= set(rows)
    assert all(seconds > 0 for _, seconds in rates.curve)
    ticks = iter(range(10**6))
    late = calibrate(engine.backend, lambda: float(next(ticks)))  # each look at the clock costs a second
    assert {1, 2, 4, 8, 32, 64} <= {rows for rows, _ in late.curve}
    assert max(rows for rows, _ in late.curve) == 64, "nothing large is begun when the time is over"
    assert MOST_ROUNDS > 1


def test_answers_before_the_first_request_leave_nothing_behind_but_what_they_taught(loop: EngineLoop) -> None:
    warm_up(loop, [1, 2, 3] * 10)
    assert loop.in_flight == loop.unread == 0
    assert loop.cost.recent, "steps were observed"
    assert loop.cost.pace < 0.5
    assert loop.admission.counts.met == loop.admission.counts.missed == 0


def test_an_idle_loop_sees_that_the_machine_has_recovered(loop: EngineLoop) -> None:
    loop.between_steps(lambda: None)
    end_s = time.monotonic() + 20
    while loop.cost.pace > 0.5 and time.monotonic() < end_s:
        time.sleep(0.02)
    assert loop.cost.pace < 0.5


def test_probes_end_when_something_is_to_be_done(loop: EngineLoop) -> None:
    assert loop.promises is not None
    controller, asked = loop.promises.controller, []

    def is_wanted() -> bool:
        asked.append(None)
        return True

    before = loop.cost.pace
    loop.between_steps(lambda: controller.probe(is_wanted))
    assert len(asked) == 1
    assert before > 0


def test_the_longer_nothing_comes_the_rarer_are_probes(loop: EngineLoop) -> None:
    assert loop.promises is not None
    controller = loop.promises.controller
    rests = []
    for _ in range(8):
        rests.append(controller.until_probe_s)
        loop.between_steps(lambda: controller.probe(lambda: True))
    assert rests == sorted(rests)
    assert rests[-1] <= 16.0
    assert controller.expect_probe()
    assert not controller.expect_probe(), "the loop is woken once"
    assert 0.01 < controller.until_probe_s < 0.1, "the refusal is sent first"
