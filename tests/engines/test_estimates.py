"""Promises from measured costs: what is taken, what is refused, what is learned, by a clock that the test holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from miaotui.engine.request import Request, RequestOptions
from miaotui.engines.estimates import LEAST_MARGIN, EstimatedPromises, MeasuredCosts, measure
from miaotui.engines.stepped import Progress
from miaotui.errors import DeadlineUnattainableError, OverloadedError
from miaotui.runtime import open_remote_model
from miaotui.types import Deadline, SamplingParams
from tiny_models import make_tiny_folder

COSTS = MeasuredCosts(0.001, ((1, 0.010), (4, 0.016), (8, 0.024)))


class World:
    """A book, its clock, and requests for it."""

    def __init__(self, folder: Path, width: int = 4) -> None:
        self.now_s = 0.0
        self.book = EstimatedPromises("Counting", COSTS, width, lambda: self.now_s)
        _, self._preparation = open_remote_model(make_tiny_folder(folder, "llama"), "0" * 64, 256)

    def take(self, prompt: int, answer: int, **deadline: object) -> Request:
        request = self._preparation.prepare([3] * prompt, SamplingParams(max_tokens=answer, ignore_eos=True))
        options = RequestOptions(deadline=Deadline(**deadline) if deadline else None, arrived_s=self.now_s)
        request.follow(options)
        self.book.take(request, options)
        return request


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_costs_between_two_widths_lie_between_theirs() -> None:
    assert [COSTS.step_s(width) for width in (1, 4, 8)] == [0.010, 0.016, 0.024]
    assert 0.010 < COSTS.step_s(2) < COSTS.step_s(3) < 0.016
    assert COSTS.step_s(16) == pytest.approx(0.048)
    rows = [rows for rows, _ in COSTS.rates.curve]
    assert rows == sorted(set(rows))


def test_a_deadline_that_the_forecast_keeps_with_its_margin_is_taken(world: World) -> None:
    alone_s = 100 * 0.001 + 20 * 0.010
    request = world.take(100, 20, total_ms=1e3 * LEAST_MARGIN * alone_s + 1)
    assert request.predicted_ms == pytest.approx(1e3 * LEAST_MARGIN * alone_s)
    world.book.end(request.number, is_whole=False)
    for deadline in ({"total_ms": 1e3 * LEAST_MARGIN * alone_s - 1}, {"ttft_ms": 160.0}, {"tpot_ms": 14.0}):
        with pytest.raises(DeadlineUnattainableError) as refusal:
            world.take(100, 20, **deadline)
        assert refusal.value.predicted_ms == pytest.approx(1e3 * LEAST_MARGIN * alone_s)


def test_late_requests_are_shortened_or_taken_as_they_ask(world: World) -> None:
    short = world.take(100, 20, total_ms=1e3 * LEAST_MARGIN * 0.2 + 1, on_late="shorten")
    assert short.shortened
    assert short.ending.max_tokens == 10
    world.book.end(short.number, is_whole=False)
    late = world.take(100, 20, total_ms=1.0, on_late="best_effort")
    assert late.predicted_ms > 1.0


def test_a_promise_that_was_made_is_not_broken_by_the_next_request(world: World) -> None:
    world.take(10, 50, total_ms=1e3 * LEAST_MARGIN * (0.01 + 50 * 0.010) + 60)
    with pytest.raises(OverloadedError, match="break a promise"):
        world.take(200, 50)
    world.take(1, 2)  # a short one fits between


def test_more_requests_than_run_at_once_wait_in_the_forecast(world: World) -> None:
    first = [world.take(10, 100) for _ in range(4)]
    fifth = world.take(10, 1)
    assert fifth.predicted_ms > 1e3 * 100 * COSTS.step_s(4)
    for request in first[:1]:
        world.book.end(request.number, is_whole=False)
    assert world.take(10, 1).predicted_ms < 1e3 * LEAST_MARGIN * 101 * COSTS.step_s(4) + 200


def test_the_margin_grows_where_the_engine_is_slower_than_foreseen(world: World) -> None:
    assert world.book.margin == LEAST_MARGIN
    for _ in range(20):
        request = world.take(100, 10)
        world.now_s += 4 * (0.1 + 10 * 0.010)
        world.book.note(request.number, 10)
        world.book.end(request.number, is_whole=True)
    assert world.book.margin == pytest.approx(4.4)
    world.book.clear()


class SteadyEngine:
    """Ends every request at the next step; remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self._running: list[int] = []
        self.prompts: set[tuple[int, ...]] = set()

    def add(self, number: int, prompt: Sequence[int], params: SamplingParams, most: int) -> None:
        self.asked.append((len(prompt), most))
        self.prompts.add(tuple(prompt[:16]))
        self._running.append(number)

    def step(self) -> Iterator[Progress]:
        running, self._running = self._running, []
        for number in running:
            yield Progress(number, (1,), "length")

    def cancel(self, number: int) -> None:
        pass

    def close(self) -> None:
        pass


def test_probes_are_all_different_and_costs_never_fall_with_width() -> None:
    engine = SteadyEngine()
    costs = measure(engine, 320, 6)
    assert len(engine.prompts) == len(engine.asked)  # no cache of prefixes answers one
    assert [width for width, _ in costs.token_s] == [1, 4, 6]
    assert [seconds for _, seconds in costs.token_s] == sorted(seconds for _, seconds in costs.token_s)
    assert costs.read_s > 0
