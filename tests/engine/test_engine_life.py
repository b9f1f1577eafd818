"""Requests through their whole life: cancelled, paused, failed or finished, nothing leaks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from miaotui.backends.backend import Backend, StepResult
from miaotui.engine.engine import Engine
from miaotui.engine.request import Request
from miaotui.errors import EngineError, PromptTooLongError, RequestError
from miaotui.model import packing
from miaotui.schedule.plan import Plan
from miaotui.types import SamplingParams
from tiny_engine import Array, answers, open_changed, open_engine, open_parts, run, settings_in
from tiny_models import make_tiny_folder

pytestmark = pytest.mark.usefixtures("backend")

LONG = SamplingParams(max_tokens=100, ignore_eos=True)
SHORT = SamplingParams(max_tokens=5, ignore_eos=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_folder(tmp_path_factory.mktemp("models"), "llama")


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(0, 300, length)]


def assert_drained(engine: Engine) -> None:
    """Nothing runs, waits or holds a page."""
    engine.scheduler.check()
    stats = engine.scheduler.stats()
    assert (stats.running, stats.waiting, stats.paused, stats.pages_used) == (0, 0, 0, 0)
    assert engine.in_flight == 0
    assert not engine.step()


# cancelling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse_prefix", [True, False])
@pytest.mark.parametrize("steps", range(9))
def test_cancelled_at_any_step_frees_every_page(steps: int, reuse_prefix: bool, path: Path, tmp_path: Path) -> None:
    """Step 0: waiting; 1 to 3: within the prompt; later: decoding."""
    engine = open_engine(path, tmp_path, chunk_size=16, reuse_prefix=reuse_prefix)
    free = engine.scheduler.stats().pages_free
    request = engine.submit(prompt_of(60), LONG)
    for _ in range(steps):
        engine.step()
    engine.cancel(request)
    assert request.completion().finish_reason == "cancelled"
    assert len(request.completion().token_ids) == max(0, steps - 3)
    assert_drained(engine)
    stats = engine.scheduler.stats()
    assert stats.pages_free + stats.pages_evictable == free
    assert reuse_prefix or stats.pages_free == free


def test_cancelled_while_waiting_in_line(path: Path, tmp_path: Path) -> None:
    engine = open_engine(path, tmp_path, max_sequences=1)
    first, second, third = (engine.submit(prompt_of(20, i), SHORT) for i in range(3))
    engine.step()
    engine.cancel(second)
    run(engine)
    assert first.completion().finish_reason == third.completion().finish_reason == "length"
    assert second.completion().token_ids == ()
    assert_drained(engine)


def test_cancelled_while_paused(path: Path, tmp_path: Path) -> None:
    engine = open_engine(path, tmp_path, kv_tokens=128)
    alone = answers(engine, [prompt_of(60)], dataclasses.replace(LONG, max_tokens=60))
    first = engine.submit(prompt_of(60), dataclasses.replace(LONG, max_tokens=60))
    second = engine.submit(prompt_of(40, 1), dataclasses.replace(LONG, max_tokens=60))
    while not engine.scheduler.stats().paused:
        assert engine.step()
    engine.cancel(second)
    assert second.completion().finish_reason == "cancelled"
    run(engine)
    assert first.completion().token_ids == alone[0]
    assert_drained(engine)


def test_cancelling_what_is_over_changes_nothing(path: Path, tmp_path: Path) -> None:
    engine = open_engine(path, tmp_path)
    request = engine.submit(prompt_of(5), SHORT)
    run(engine)
    before = request.completion()
    engine.cancel(request)
    engine.cancel(request)
    assert request.completion() == before
    assert before.finish_reason == "length"


def test_cancel_all(path: Path, tmp_path: Path) -> None:
    engine = open_engine(path, tmp_path, max_sequences=2)
    requests = [engine.submit(prompt_of(30, i), LONG) for i in range(5)]
    for _ in range(4):
        engine.step()
    engine.cancel_all()
    assert {request.finish_reason for request in requests} == {"cancelled"}
    assert_drained(engine)


# pages running out --------------------------------------------------------------------------------


def test_a_request_paused_for_pages_goes_on_to_the_same_answer(path: Path, tmp_path: Path) -> None:
    prompts = [prompt_of(length, length) for length in (50, 30, 61, 17)]
    params = SamplingParams(max_tokens=60, temperature=1.0, seed=4, ignore_eos=True)
    roomy = open_engine(path, tmp_path)
    expected = [answers(roomy, [prompt], params)[0] for prompt in prompts]
    engine = open_engine(path, tmp_path, kv_tokens=144)
    requests = [engine.submit(prompt, params) for prompt in prompts]
    paused = 0
    while engine.step():
        engine.scheduler.check()
        paused = max(paused, engine.scheduler.stats().paused)
    assert paused >= 1
    assert [request.completion().token_ids for request in requests] == expected
    assert_drained(engine)


def test_what_fits_the_context_fits_the_pages(path: Path, tmp_path: Path) -> None:
    engine = open_engine(path, tmp_path, kv_tokens=40)
    assert engine.context == 48
    request = engine.submit(prompt_of(47), SamplingParams(ignore_eos=True))
    run(engine)
    assert len(request.completion().token_ids) == 1
    assert request.completion().finish_reason == "length"
    with pytest.raises(PromptTooLongError, match="48 tokens"):
        engine.submit(prompt_of(48), SamplingParams())
    assert_drained(engine)


def test_many_sequences_that_share_a_long_prefix(path: Path, tmp_path: Path) -> None:
    """Their page lists together are far longer than there are pages."""
    engine = open_engine(path, tmp_path, kv_tokens=256, max_sequences=40)
    stem = prompt_of(176)
    answers(engine, [stem], SHORT)
    prompts = [[*stem, i] for i in range(40)]
    found = answers(engine, prompts, SamplingParams(max_tokens=2, ignore_eos=True))
    alone = open_engine(path, tmp_path, reuse_prefix=False)
    assert found[7:9] == answers(alone, prompts[7:9], SamplingParams(max_tokens=2, ignore_eos=True))
    assert_drained(engine)


# failures -----------------------------------------------------------------------------------------

POISON = 77  # the token whose embedding is not a number


def poisoned(weights: dict[str, Array]) -> None:
    weights["embed"][POISON] = np.nan


@pytest.mark.parametrize("kv", ["f16", "int8"])
@pytest.mark.parametrize("reuse_prefix", [True, False])
def test_logits_that_are_not_numbers_fail_one_request_only(
    kv: str, reuse_prefix: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later ones get the pages that it wrote to, and see nothing of what it left there."""
    monkeypatch.setattr(packing, "require_finite", lambda *_: None)  # which refuses such weights
    options = {"kv": kv, "reuse_prefix": reuse_prefix, "kv_tokens": 96}
    engine = open_changed(tmp_path, "llama", poisoned, **options)
    good = [[i for i in prompt_of(n, n) if i != POISON] for n in (3, 9, 25)]
    expected = [answers(engine, [prompt], SHORT)[0] for prompt in good]
    for _ in range(3):
        bad = engine.submit([5] + [POISON] * 39, SHORT)
        assert answers(engine, good, SHORT) == expected
        assert bad.finish_reason == "failed"
        with pytest.raises(EngineError, match="position 40 is nan"):
            bad.completion()
        assert_drained(engine)


class FaultyBackend:
    """A backend whose passes fail while any of ``victims`` takes part; all else is another's."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.victims: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, plan: Plan, *how: Any) -> StepResult:
        if any(chunk.sequence in self.victims for chunk in plan.chunks):
            raise OSError("the memory is on fire")
        return self._inner.run(plan, *how)


def faulty_engine(path: Path, folder: Path) -> tuple[Engine, FaultyBackend]:
    parts, tokenizer = open_parts(path, settings_in(folder), max_sequences=2)
    backend = FaultyBackend(parts.backend)
    return Engine(parts._replace(backend=cast("Backend", backend)), tokenizer), backend


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_fault_in_a_pass_fails_its_requests_and_no_others(steps: int, path: Path, tmp_path: Path) -> None:
    engine, backend = faulty_engine(path, tmp_path)
    prompts = [prompt_of(20, seed) for seed in range(3)]
    expected = [answers(engine, [prompt], SHORT)[0] for prompt in prompts]
    requests = [engine.submit(prompt, SHORT) for prompt in prompts]
    for _ in range(steps):
        engine.step()
    backend.victims = {requests[0].number}
    run(engine)
    for request in requests[:2]:  # they were in the pass; the third waited in line
        assert request.finish_reason == "failed"
        with pytest.raises(EngineError, match="the memory is on fire") as caught:
            request.read()
        assert isinstance(caught.value.__cause__, OSError)
    assert requests[2].completion().token_ids == expected[2]
    assert answers(engine, prompts, SHORT) == expected
    assert_drained(engine)


def test_what_was_said_before_a_failure_can_be_read(path: Path, tmp_path: Path) -> None:
    engine, backend = faulty_engine(path, tmp_path)
    request = engine.submit(prompt_of(20), LONG)
    for _ in range(4):
        engine.step()
    assert len(request.read().token_ids) == 4
    backend.victims = {request.number}
    run(engine)
    assert len(request.token_ids) == 4


# submitting ---------------------------------------------------------------------------------------


def test_prompts_that_cannot_run_are_refused_at_once(path: Path, tmp_path: Path) -> None:
    engine = open_engine(path, tmp_path)
    for prompt, reason in (([], "no tokens"), ([320], "id 320"), ([3, -1], "id -1")):
        with pytest.raises(RequestError, match=reason):
            engine.submit(prompt, SHORT)
    with pytest.raises(PromptTooLongError, match="256 tokens and the context holds 256"):
        engine.submit(prompt_of(256), SHORT)
    with pytest.raises(RequestError, match="stop_token_ids names token 320"):
        engine.submit([1], SamplingParams(stop_token_ids=(320,)))
    assert_drained(engine)


def test_namespaces_do_not_share_prefixes(path: Path, tmp_path: Path) -> None:
    engine = open_engine(path, tmp_path)
    found = []
    for namespace in (0, 0, 1, 1):
        request = engine.submit(prompt_of(100), SHORT, namespace)
        run(engine)
        found.append(request.completion().cached_tokens)
    assert found == [0, 96, 0, 96]


def test_reading_piece_by_piece_gives_the_whole(path: Path, tmp_path: Path) -> None:
    engine = open_engine(path, tmp_path)
    request = engine.submit(prompt_of(10), LONG)
    deltas = []
    while not request.is_over:
        engine.step()
        assert request.has_news
        deltas.append(request.read())
    done = deltas[-1].completion
    assert done is not None
    assert "".join(delta.text for delta in deltas) == done.text
    assert sum((delta.token_ids for delta in deltas), ()) == done.token_ids
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason == "length"


def test_times_are_in_order(path: Path, tmp_path: Path) -> None:
    engine = open_engine(path, tmp_path)
    request = engine.submit(prompt_of(10), LONG)
    run(engine)
    timing = request.completion().timing
    assert 0 < timing.ttft_s < timing.total_s
    rate = 99 / (timing.total_s - timing.ttft_s)
    assert timing.decode_tokens_per_s == pytest.approx(rate)
    single: Request = engine.submit(prompt_of(10), SamplingParams(max_tokens=1))
    run(engine)
    assert single.completion().timing.decode_tokens_per_s == 0.0
