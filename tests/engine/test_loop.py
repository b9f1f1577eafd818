"""The engine's thread: promises with a real (tiny) model, faults, restarts, refusals at once."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from miaotui.engine.engine import Engine
from miaotui.engine.loop import EngineLoop
from miaotui.engine.reading.readers import Readers
from miaotui.engine.request import Request, RequestOptions
from miaotui.errors import DeadlineUnattainableError, EngineError, OverloadedError, RequestError
from miaotui.schedule.promises.cost import CostModel, CostRates
from miaotui.types import Completion, Deadline, SamplingParams
from tiny_engine import open_engine, open_loop
from tiny_models import make_tiny_folder

pytestmark = pytest.mark.usefixtures("backend")

SHORT = SamplingParams(max_tokens=6, ignore_eos=True)
LONG = SamplingParams(max_tokens=150, ignore_eos=True)
MINUTE = Deadline(total_ms=60_000.0)
SLOW = CostRates(((1, 0.05), (256, 1.0)), 0.0, 0.0)  # far slower than a tiny model is


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    make_tiny_folder(place, "llama")
    return place


class Waiting(Readers):
    """Reads whatever comes, in the engine's thread."""

    def __init__(self) -> None:
        super().__init__()
        self.completions: dict[int, Completion | Exception] = {}
        self.came = threading.Condition()

    def is_due(self) -> bool:
        return True

    def tell(self, requests: Sequence[Request]) -> None:
        with self.came:
            for request in requests:
                try:
                    delta = request.read()
                except EngineError as error:
                    self.completions[request.number] = error
                else:
                    if delta.completion is not None:
                        self.completions[request.number] = delta.completion
            self.came.notify_all()

    def until(self, holds: Callable[[], bool]) -> None:
        with self.came:
            assert self.came.wait_for(holds, 20)

    def end_of(self, request: Request) -> Completion | Exception:
        self.until(lambda: request.number in self.completions)
        return self.completions[request.number]


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


@pytest.fixture
def loop(folder: Path, waiting: Waiting) -> Iterator[EngineLoop]:
    engine_loop = open_loop(folder / "llama-0", folder, waiting)
    yield engine_loop
    engine_loop.close()


def test_a_promise_is_given_kept_and_counted(loop: EngineLoop, waiting: Waiting) -> None:
    request = loop.submit([1, 2, 3], SHORT, RequestOptions(deadline=MINUTE))
    given = request.promise
    assert given.asked_ms == 60_000
    assert 0 < given.predicted_ms < 60_000
    assert given.met is None or given.met
    assert isinstance(waiting.end_of(request), Completion)
    assert request.promise.met
    assert request.promise.took_ms is not None
    assert loop.admission.counts.met == 1
    assert len(loop.admission) == 0
    assert loop.cost.recent


def test_time_counts_from_the_arrival_that_is_told(loop: EngineLoop, waiting: Waiting) -> None:
    asked = RequestOptions(deadline=Deadline(total_ms=60_000.0), arrived_s=time.perf_counter() - 1.0)
    request = loop.submit([1, 2, 3], SHORT, asked)
    waiting.end_of(request)
    assert request.promise.took_ms is not None
    assert request.promise.took_ms > 1000


def test_what_cannot_be_done_is_refused_at_once(folder: Path, waiting: Waiting) -> None:
    loop = open_loop(folder / "llama-0", folder, waiting, CostModel(SLOW))
    start_s = time.perf_counter()
    with pytest.raises(DeadlineUnattainableError) as caught:
        loop.submit([1, 2, 3], LONG, RequestOptions(deadline=Deadline(total_ms=1000.0)))
    assert time.perf_counter() - start_s < 1.0
    assert caught.value.predicted_ms > 5000
    assert loop.admission.counts.refused == 1
    loop.close()


def test_who_was_refused_wrongly_is_taken_on_later_since_the_machine_is_looked_at(
    folder: Path, waiting: Waiting
) -> None:
    loop = open_loop(folder / "llama-0", folder, waiting, CostModel(SLOW))
    asked = RequestOptions(deadline=Deadline(total_ms=2000.0))
    end_s = time.perf_counter() + 20
    while time.perf_counter() < end_s:
        try:
            request = loop.submit([1, 2, 3], LONG, asked)
        except DeadlineUnattainableError:
            time.sleep(0.02)
        else:
            assert isinstance(waiting.end_of(request), Completion)
            break
    else:
        pytest.fail("refused for ever")
    loop.close()


def test_answers_are_shortened_and_marked(folder: Path, waiting: Waiting) -> None:
    truth = CostRates(((1, 0.02), (256, 0.1)), 0.0, 0.0)
    loop = open_loop(folder / "llama-0", folder, waiting, CostModel(truth))
    asked = RequestOptions(deadline=Deadline(total_ms=500.0, on_late="shorten"))
    request = loop.submit([1, 2, 3], LONG, asked)
    completion = waiting.end_of(request)
    assert isinstance(completion, Completion)
    assert request.promise.shortened
    assert completion.finish_reason == "length"
    assert 1 <= len(completion.token_ids) < 30
    loop.close()


def test_a_fault_in_a_pass_fails_its_requests_with_the_reason_and_the_engine_goes_on(
    loop: EngineLoop, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, broken = loop.engine.backend, threading.Event()
    run = backend.run

    def fail(*_: object) -> object:
        broken.set()
        raise OSError("memory is gone")

    monkeypatch.setattr(backend, "run", fail)
    request = loop.submit([1, 2, 3], SHORT, RequestOptions(deadline=MINUTE))
    error = waiting.end_of(request)
    assert isinstance(error, EngineError)
    assert "memory is gone" in str(error)
    assert broken.is_set()
    waiting_for(lambda: not loop.healthy)
    with pytest.raises(OverloadedError, match="restarting"):
        loop.submit([1, 2, 3], SHORT)
    monkeypatch.setattr(backend, "run", run)
    waiting_for(lambda: loop.healthy)
    assert isinstance(waiting.end_of(loop.submit([1, 2, 3], SHORT)), Completion)
    assert loop.admission.counts.missed == 1


def test_a_fault_outside_a_pass_restarts_the_engine(
    loop: EngineLoop, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = waiting.end_of(loop.submit([4, 5, 6], SHORT))
    scheduler = loop.engine.scheduler
    commit, taken_on = scheduler.commit, loop._active

    def fail(*how: Any) -> None:
        """Once all three are there: whoever comes later is served by the new engine."""
        if len(taken_on) == 3:
            raise AssertionError("pages disagree")
        time.sleep(0.005)
        commit(*how)

    monkeypatch.setattr(scheduler, "commit", fail)
    requests = [loop.submit([1, 2, n], LONG) for n in range(3)]
    for request in requests:
        assert "pages disagree" in str(waiting.end_of(request))
    waiting_for(lambda: loop.healthy)
    assert loop.engine.scheduler is not scheduler
    after = waiting.end_of(loop.submit([4, 5, 6], SHORT))
    assert isinstance(before, Completion)
    assert isinstance(after, Completion)
    assert after.token_ids == before.token_ids
    assert len(loop.admission) == 0


def test_capacity_is_told_in_words(loop: EngineLoop) -> None:
    assert "answers of 120 tokens in" in str(loop.capacity())


def test_closing_ends_everyone(folder: Path, waiting: Waiting) -> None:
    loop = open_loop(folder / "llama-0", folder, waiting)
    requests = [loop.submit([1, 2, n], LONG, RequestOptions(deadline=MINUTE)) for n in range(5)]
    loop.close()
    assert all(request.is_over for request in requests)
    with pytest.raises(OverloadedError):
        loop.submit([1], SHORT)


def waiting_for(holds: Callable[[], bool]) -> None:
    end_s = time.perf_counter() + 20
    while not holds():
        assert time.perf_counter() < end_s
        time.sleep(0.005)


def test_an_engine_of_its_own_answers_as_in_a_loop(folder: Path, loop: EngineLoop, waiting: Waiting) -> None:
    alone: Engine = open_engine(folder / "llama-0", folder)
    prompts = [[n, n + 1, n + 2] * 8 for n in range(12)]
    expected = []
    for prompt in prompts:
        request = alone.submit(prompt, SHORT)
        while alone.step():
            pass
        expected.append(request.completion().token_ids)
    deadlines = [None, MINUTE, Deadline(total_ms=60_000.0, ttft_ms=30_000.0)]
    requests = [
        loop.submit(prompt, SHORT, RequestOptions(deadline=deadlines[n % 3])) for n, prompt in enumerate(prompts)
    ]
    for request, tokens in zip(requests, expected, strict=True):
        completion = waiting.end_of(request)
        assert isinstance(completion, Completion)
        assert completion.token_ids == tokens


def test_a_backend_that_cannot_promise_refuses_deadlines(
    loop: EngineLoop, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = loop.engine.backend
    monkeypatch.setattr(backend, "capabilities", dataclasses.replace(backend.capabilities, promises=False))
    monkeypatch.setattr(loop, "promises", None)  # as before the first deadline
    with pytest.raises(RequestError, match="backend has no promises"):
        loop.submit([1, 2, 3], SHORT, RequestOptions(deadline=MINUTE))
    assert isinstance(waiting.end_of(loop.submit([1, 2, 3], SHORT)), Completion)
