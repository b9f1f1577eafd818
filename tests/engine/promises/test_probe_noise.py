"""Probes of an idle engine: what disturbs a pass does not make the machine look slow for long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from miaotui.engine.engine import Engine
from miaotui.engine.slo_controller import CORRECT_S, SloController
from miaotui.schedule.plan import Plan
from miaotui.schedule.promises.admission import Admission
from miaotui.schedule.promises.cost import CostModel, CostRates, StepShape
from tiny_engine import open_engine
from tiny_models import make_tiny_folder

RATES = CostRates(((1, 0.005), (8, 0.006), (64, 0.04)), 0.0, 0.0)


class TimedBackend:
    """The engine's backend, whose passes take as long as the test says."""

    def __init__(self, engine: Engine, seconds: Callable[[Plan], float]) -> None:
        self._backend, self._seconds = engine.backend, seconds
        self.now_s = 100.0
        engine.backend = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def run(self, plan: Plan) -> None:
        self.now_s += self._seconds(plan)

    def clock(self) -> float:
        return self.now_s


class World:
    """A controller in virtual time; ``slowness`` gives each pass's time over the calibrated one, in turn."""

    def __init__(self, folder: Path, slowness: Callable[[int], float]) -> None:
        engine = open_engine(folder / "llama-0", folder)
        self.cost = CostModel(RATES)
        self._truth, self._passes, self._slowness = CostModel(RATES), 0, slowness
        self.backend = TimedBackend(engine, self._seconds)
        admission = Admission(self.cost, None)  # type: ignore[arg-type]  # probes ask it nothing
        self.controller = SloController(engine, self.cost, admission, self.backend.clock)

    def _seconds(self, plan: Plan) -> float:
        shape = StepShape.of(plan.chunks)
        self._passes += 1
        return self._slowness(self._passes) * self._truth.seconds(shape.rows, shape.logits, shape.attended)

    def probe(self, times: int, refusals: bool) -> None:
        """Probe so many times, after a refusal each or without."""
        for _ in range(times):
            if refusals:
                self.controller.expect_probe()
            self.controller.probe(lambda: False)
            self.backend.now_s += CORRECT_S


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    make_tiny_folder(place, "llama")
    return place


def test_refusals_that_disturb_every_pass_do_not_make_the_next_likelier(folder: Path) -> None:
    world = World(folder, lambda _: 3.0)
    world.probe(50, refusals=True)
    assert world.cost.pace == pytest.approx(1.0)
    assert world.cost.seconds(64, 0, 0.0) == pytest.approx(0.04)


def test_one_pass_without_disturbance_is_enough(folder: Path) -> None:
    world = World(folder, lambda index: 1.0 if index % 3 == 0 else 4.0)
    world.probe(50, refusals=False)
    assert world.cost.pace < 1.2


def test_a_machine_that_is_slow_throughout_is_seen(folder: Path) -> None:
    world = World(folder, lambda _: 2.0)
    world.probe(6, refusals=False)
    assert 1.7 < world.cost.pace < 2.3


def test_a_machine_that_has_recovered_is_seen_beside_refusals_as_well(folder: Path) -> None:
    world = World(folder, lambda _: 1.0)
    world.cost.pace = 4.0
    world.probe(4, refusals=True)
    assert world.cost.pace < 1.5
