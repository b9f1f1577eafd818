"""Random interleavings of submit, step and cancel, with every answer compared to that alone."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from miaotui.engine.engine import Engine
from miaotui.engine.request import Request
from miaotui.types import SamplingParams
from tiny_engine import open_engine
from tiny_models import make_tiny_folder

STEMS = [[int(i) for i in np.random.default_rng(stem).integers(0, 300, 90)] for stem in range(2)]
MANNERS = (
    SamplingParams(ignore_eos=True),
    SamplingParams(temperature=1.0, seed=5),
    SamplingParams(temperature=0.7, top_p=0.8, seed=6, repetition_penalty=1.3),
    SamplingParams(stop_token_ids=tuple(range(0, 320, 20))),
)
Ask = tuple[tuple[int, ...], int, int]  # prompt, which manner, max_tokens


@functools.cache
def folder() -> Path:
    """A folder that lives as long as the tests, with a model in it."""
    place = Path(_keep.name)
    make_tiny_folder(place, "mistral")
    return place


_keep = tempfile.TemporaryDirectory()


def engine_of(**options: object) -> Engine:
    return open_engine(folder() / "mistral-0", folder(), **options)


@functools.cache
def the_only() -> Engine:
    return engine_of(reuse_prefix=False)


def submitted(engine: Engine, ask: Ask) -> Request:
    prompt, manner, max_tokens = ask
    return engine.submit(prompt, dataclasses.replace(MANNERS[manner], max_tokens=max_tokens))


@functools.cache
def alone(ask: Ask) -> tuple[int, ...]:
    """What a request gets when nothing else runs."""
    request = submitted(the_only(), ask)
    while the_only().step():
        pass
    return request.completion().token_ids


class EngineMachine(RuleBasedStateMachine):
    @initialize(
        kv_tokens=st.sampled_from([128, 160, 1024]),
        chunk_size=st.sampled_from([5, 16, 64]),
        max_sequences=st.integers(1, 5),
        reuse_prefix=st.booleans(),
    )
    def start(self, **options: object) -> None:
        self.engine = engine_of(**options)
        self.asks: dict[int, Ask] = {}
        self.requests: dict[int, Request] = {}

    @rule(
        stem=st.sampled_from(STEMS),
        length=st.sampled_from([1, 15, 16, 17, 33, 60, 80]),
        tail=st.lists(st.integers(0, 319), max_size=2),
        manner=st.integers(0, len(MANNERS) - 1),
        max_tokens=st.integers(1, 30),
    )
    def submit(self, stem: list[int], length: int, tail: list[int], manner: int, max_tokens: int) -> None:
        ask = (tuple(stem[:length] + tail), manner, max_tokens)
        request = submitted(self.engine, ask)
        self.asks[request.number], self.requests[request.number] = ask, request

    @rule(steps=st.integers(1, 12))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            in_flight = self.engine.in_flight
            assert self.engine.step() == (in_flight > 0)

    @rule(good=st.integers(0, 4), bad=st.integers(0, 3))
    def step_with_drafts(self, good: int, bad: int) -> None:
        drafts = {}
        for number in self.running():
            done = len(self.requests[number].token_ids)
            right = alone(self.asks[number])[done : done + good]
            drafts[number] = [*right, *[(done + i) % 320 for i in range(bad)]]
        self.engine.step(drafts)

    @rule(choice=st.integers(0, 30))
    def cancel(self, choice: int) -> None:
        if self.requests:
            request = self.requests[sorted(self.requests)[choice % len(self.requests)]]
            self.engine.cancel(request)
            assert request.is_over

    def running(self) -> list[int]:
        return [number for number, request in self.requests.items() if not request.is_over]

    @invariant()
    def answers_are_those_of_requests_alone(self) -> None:
        if not hasattr(self, "engine"):
            return
        self.engine.scheduler.check()
        assert self.engine.in_flight == len(self.running())
        for number in list(self.requests):
            request = self.requests[number]
            expected = alone(self.asks[number])
            found = tuple(request.token_ids)
            assert found == expected[: len(found)]
            if request.is_over:
                assert request.finish_reason in ("stop", "length", "cancelled")
                assert request.finish_reason == "cancelled" or found == expected
                del self.requests[number]

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        while self.engine.step():
            pass
        self.answers_are_those_of_requests_alone()
        assert not self.requests
        stats = self.engine.scheduler.stats()
        assert (stats.running, stats.waiting, stats.paused, stats.pages_used) == (0, 0, 0, 0)


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(max_examples=80, stateful_step_count=25, deadline=None, derandomize=True)
