"""The default model under a load of promises says what it says to each request alone."""

from __future__ import annotations

import random
import time

import pytest

from miaotui.engine.request import RequestOptions
from miaotui.errors import DeadlineUnattainableError
from miaotui.llm import LLM
from miaotui.runtime import ModelOptions, open_model
from miaotui.types import Deadline, SamplingParams

DEADLINES = (
    None,
    Deadline(total_ms=1500.0),
    Deadline(total_ms=60_000.0),
    Deadline(ttft_ms=400.0),
    Deadline(total_ms=700.0, on_late="shorten"),
    Deadline(total_ms=300.0, on_late="best_effort"),
)


def asks(count: int) -> list[tuple[list[int], SamplingParams, Deadline | None]]:
    source = random.Random(11)
    found = []
    for number in range(count):
        prompt = [source.randrange(49_000) for _ in range(source.randint(40, 300))]
        params = SamplingParams(
            max_tokens=source.randint(8, 48), temperature=source.choice([0.0, 1.0]), seed=number, ignore_eos=True
        )
        found.append((prompt, params, DEADLINES[number % len(DEADLINES)]))
    return found


@pytest.mark.slow
@pytest.mark.model
def test_answers_under_load_are_those_of_requests_alone() -> None:
    loop = open_model("smollm2-135m", ModelOptions(speculate=False))
    source, running = random.Random(12), []
    for prompt, params, deadline in asks(24):
        try:
            request = loop.submit(prompt, params, RequestOptions(deadline=deadline))
        except DeadlineUnattainableError:
            continue
        running.append((prompt, params, request))
        time.sleep(source.expovariate(12.0))
    while not all(request.is_over for _, _, request in running):
        time.sleep(0.01)
    loop.engine.scheduler.check()
    assert loop.engine.scheduler.stats().pages_used == 0
    assert len(running) >= 8
    alone = LLM(loop)
    for prompt, params, request in running:
        found, whole = request.completion(), alone.generate(prompt, params)
        assert found.token_ids == whole.token_ids[: len(found.token_ids)]
        if not request.promise.shortened:
            assert found.text == whole.text
            assert found.finish_reason == whole.finish_reason
    loop.close()
