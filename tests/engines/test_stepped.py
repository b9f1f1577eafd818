"""Engines of other makers behind our loop: order, ends, cancellation, faults, and refusals by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from miaotui.engine.reading import readers
from miaotui.engine.remote.loop import RemoteLoop
from miaotui.engine.request import Request, RequestOptions
from miaotui.engines.stepped import Progress, SteppedDispatcher
from miaotui.errors import EngineError, MiaotuiError, OverloadedError, RequestError
from miaotui.runtime import open_remote_model
from miaotui.types import Deadline, SamplingParams
from tiny_models import make_tiny_folder

FULL = 99  # a prompt's first token for which there is no memory
BROKEN = 98  # ... whose step fails
WRONG = 97  # ... that is not taken


class CountingEngine:
    """Answers each prompt with its last token plus 1, 2, 3, ..."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.running: dict[int, tuple[int, int]] = {}  # the next token, and how many are left
        self.cancelled: list[int] = []

    def add(self, number: int, prompt: Sequence[int], params: SamplingParams, most: int) -> None:
        if prompt[0] == WRONG:
            raise RequestError("not this one")
        self.running[number] = ({FULL: -1, BROKEN: -2}.get(prompt[0], prompt[-1] + 1), most)

    def step(self) -> Iterator[Progress]:
        time.sleep(0.001)
        for number, (token, left) in tuple(self.running.items()):
            if token == -2:
                raise RuntimeError("out of order")
            end = "no_room" if token == -1 else "length" if left == 1 else None
            if end is not None:
                del self.running[number]
            else:
                self.running[number] = (token + 1) % 300, left - 1
            yield Progress(number, () if token == -1 else (token,), end)  # type: ignore[arg-type]

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)
        self.running.pop(number, None)

    def close(self) -> None:
        self.running.clear()


@pytest.fixture
def engines() -> list[CountingEngine]:
    return []


@pytest.fixture
def loop(tmp_path: Path, engines: list[CountingEngine]) -> Iterator[RemoteLoop]:
    remote, preparation = open_remote_model(make_tiny_folder(tmp_path, "llama"), "0" * 64, 256)

    def make() -> CountingEngine:
        engines.append(CountingEngine())
        return engines[-1]

    dispatcher = SteppedDispatcher("Counting", make, 4)
    made = RemoteLoop(remote, preparation, dispatcher)
    dispatcher.loop = made
    yield made
    made.close()
    assert made.in_flight == 0


def submitted(loop: RemoteLoop, *prompts: Sequence[int], most: int = 5) -> Callable[[], Iterator[Request]]:
    params = SamplingParams(max_tokens=most, ignore_eos=True)
    return lambda: (loop.submit(prompt, params) for prompt in prompts)


def test_answers_run_together_and_end_at_their_limit(loop: RemoteLoop) -> None:
    found = readers.whole(loop, submitted(loop, [10], [20, 30], [40]))
    assert [each.token_ids for each in found] == [tuple(range(first, first + 5)) for first in (11, 31, 41)]
    assert {each.finish_reason for each in found} == {"length"}


def test_a_stop_string_ends_an_answer_and_the_engines_work(loop: RemoteLoop, engines: list[CountingEngine]) -> None:
    params = SamplingParams(max_tokens=100, stop=("E",), ignore_eos=True)
    (found,) = readers.whole(loop, lambda: iter([loop.submit(loop.model.tokenizer.encode("A"), params)]))
    assert (found.text, found.finish_reason) == ("BCD", "stop")
    assert engines[0].running == {}


def test_cancelled_requests_end_at_once(loop: RemoteLoop, engines: list[CountingEngine]) -> None:
    (request,) = submitted(loop, [10], most=200)()
    while not request.token_ids:
        time.sleep(0.001)
    loop.leave(request)
    end_s = time.monotonic() + 5
    while not request.is_over and time.monotonic() < end_s:
        time.sleep(0.001)
    assert request.finish_reason == "cancelled"
    assert engines[0].cancelled == [request.number]


def test_a_fault_fails_what_ran_and_the_engine_is_made_anew(loop: RemoteLoop, engines: list[CountingEngine]) -> None:
    threads = threading.active_count()
    with pytest.raises(EngineError, match="out of order"):
        readers.whole(loop, submitted(loop, [BROKEN]))
    end_s = time.monotonic() + 5
    while not loop.healthy and time.monotonic() < end_s:
        time.sleep(0.001)
    (found,) = readers.whole(loop, submitted(loop, [10]))
    assert found.token_ids == (11, 12, 13, 14, 15)
    assert len(engines) == 2
    assert threading.active_count() <= threads + 1, "the first engine's thread has ended"


@pytest.mark.parametrize(("first", "kind"), [(FULL, OverloadedError), (WRONG, RequestError)])
def test_requests_that_are_not_taken_say_why(loop: RemoteLoop, first: int, kind: type[MiaotuiError]) -> None:
    with pytest.raises(kind, match=r"no memory|not this one"):
        readers.whole(loop, submitted(loop, [first]))


def test_what_such_an_engine_lacks_is_refused_by_name(loop: RemoteLoop) -> None:
    for params, options, reason in (
        (SamplingParams(logprobs=1), RequestOptions(), "log-probabilities"),
        (SamplingParams(logit_bias={3: 1.0}), RequestOptions(), "logit_bias"),
        (SamplingParams(min_tokens=2), RequestOptions(), "min_tokens"),
        (SamplingParams(), RequestOptions(deadline=Deadline(total_ms=9)), "no promises"),
        (SamplingParams(), RequestOptions(adapter="law"), "no adapters"),
    ):
        with pytest.raises(RequestError, match=reason):
            loop.submit([1, 2], params, options)
    with pytest.raises(RequestError, match="no adapters"):
        loop.adapters.load("law", Path("nowhere"))
    assert loop.in_flight == loop.unread == 0


def test_a_closed_engine_takes_nothing(loop: RemoteLoop) -> None:
    (request,) = submitted(loop, [10], most=200)()
    loop.close()
    assert request.finish_reason == "cancelled"
    with pytest.raises(OverloadedError, match="stopping"):
        loop.submit([1], SamplingParams())
