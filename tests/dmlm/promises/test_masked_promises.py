"""Promises of masked models: passes counted at worst are those that decoding takes, and no deadline changes a token."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import miaotui
from miaotui.backends.options import EngineOptions
from miaotui.backends.reference.build import assemble
from miaotui.dmlm.decoding.acceptance import Acceptance
from miaotui.dmlm.decoding.decode import DecodeOptions, decode
from miaotui.dmlm.decoding.passes import TextPasses
from miaotui.dmlm.engine import MaskedEngine, masked_parts
from miaotui.dmlm.promises.controller import MaskedPromises
from miaotui.dmlm.promises.cost import MaskedCost, shape_of
from miaotui.dmlm.promises.forecast import MaskedForecast
from miaotui.engine.quote import quote
from miaotui.engine.request import Request, RequestOptions
from miaotui.engine.slo_controller import order_of
from miaotui.errors import DeadlineUnattainableError
from miaotui.kernels.runtime import compiled
from miaotui.llm import LLM
from miaotui.model.masked import MaskedConfig
from miaotui.schedule.plan import Chunk, Plan
from miaotui.schedule.promises.cost import CostRates, StepShape
from miaotui.schedule.promises.forecast import Job, SchedulingPolicy
from miaotui.text.load import load_tokenizer
from miaotui.types import Deadline, SamplingParams
from tiny_masked import make_masked_folder, masked_config
from tiny_models import tiny_weights
from tiny_tokenizer import write_tokenizer

RATES = CostRates([(8, 0.01), (64, 0.04)], 1e-5, 1e-7)
POLICY = SchedulingPolicy(16, 64)


def text_of(count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(count).integers(0, 256, count)]


def engine_of(variant: str, folder: Path, acceptance: Acceptance) -> MaskedEngine:
    write_tokenizer(folder)
    config = masked_config(variant)
    assert config.masked is not None
    options = EngineOptions(backend="reference", chunk_size=64, max_sequences=16)
    parts = masked_parts(assemble(config, tiny_weights(config), options), config.masked)
    return MaskedEngine(parts, load_tokenizer(None, folder), config.masked, DecodeOptions(acceptance=acceptance))


@pytest.fixture(scope="module", params=["bd3lm", "llada"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MaskedEngine:
    return engine_of(request.param, tmp_path_factory.mktemp(request.param), Acceptance(count=1))


@pytest.mark.parametrize(("prompt", "answer"), [(5, 9), (8, 16), (23, 4), (100, 20)])
def test_passes_at_worst_are_those_of_decoding(
    engine: MaskedEngine, monkeypatch: pytest.MonkeyPatch, prompt: int, answer: int
) -> None:
    if not engine.masked.block and prompt + answer > 64:
        pytest.skip("a pass holds no such text")
    ran: list[StepShape] = []
    run = engine.backend.run

    def noted(plan: Plan, *rest: Any) -> Any:
        ran.extend(map(shape_of, plan.chunks))
        return run(plan, *rest)

    monkeypatch.setattr(engine.backend, "run", noted)
    cost = MaskedCost(RATES, engine.masked, engine.backend.limits.rows)
    passes = TextPasses(engine.backend, engine.masked)
    options = DecodeOptions(answer, acceptance=Acceptance(count=1))
    before: list[StepShape] = []
    for state in decode(passes, engine.masked, text_of(prompt), options):
        accepted = answer - state.tokens.count(engine.masked.mask_id)
        if accepted == answer // 2:
            before, halfway = list(ran), Job(1, 0, answer - accepted, prompt + accepted)
    expected = [p for _, each in cost.passes_of(Job(1, prompt, answer), 1.0) for p in [each] * each.count]
    assert [p.rows for p in expected] == [shape.rows for shape in ran]
    left = [p for _, each in cost.passes_of(halfway, 1.0) for p in [each] * each.count]
    assert [p.rows for p in left] == [shape.rows for shape in ran[len(before) :]]
    for found, shape in zip(expected, ran, strict=True):
        assert found.logits >= shape.logits  # never less, up to a pass with more masks
        assert found.attended == shape.attended


def test_the_first_token_is_certain_when_its_block_has_no_mask() -> None:
    cost = MaskedCost(RATES, MaskedConfig(3, 8), 64)
    first_s, rest_s = cost.first_and_rest_s(Job(1, 12, 20), 1.0)
    only_s, nothing_s = cost.first_and_rest_s(Job(1, 12, 4), 1.0)  # up to position 16, where the block ends
    assert first_s == pytest.approx(only_s)
    assert nothing_s == 0.0
    assert rest_s > 0.0
    fast = sum(cost.first_and_rest_s(Job(1, 12, 20), 4.0))
    assert fast < 0.5 * (first_s + rest_s)


def test_more_work_never_costs_less() -> None:
    for block in (0, 8):
        cost = MaskedCost(RATES, MaskedConfig(3, block), 64)
        for rate in (1.0, 2.5):
            times = [[sum(cost.first_and_rest_s(Job(1, p, n), rate)) for n in (1, 7, 8, 9, 30)] for p in (1, 8, 20, 90)]
            assert all(row == sorted(row) for row in times)
            assert [row[-1] for row in times] == sorted(row[-1] for row in times)


def test_promised_texts_come_first_and_others_take_turns() -> None:
    cost = MaskedCost(RATES, MaskedConfig(3, 8), 64)
    alone = sum(cost.first_and_rest_s(Job(1, 8, 16), 1.0))
    jobs = [Job(1, 8, 16, order_s=9.0), Job(2, 8, 16, order_s=5.0), Job(3, 8, 16, arrival=1), Job(4, 8, 16, arrival=2)]
    found = MaskedForecast()(jobs, cost, POLICY, 100.0)
    assert found[2].last_s - 100 == pytest.approx(alone)
    assert found[1].last_s - 100 == pytest.approx(2 * alone)
    assert found[3].last_s == found[4].last_s == pytest.approx(100 + 4 * alone)  # before any acceptance: at worst
    cost.note_tokens(8)
    for _ in range(100):
        cost.note_tokens(4)
    later = MaskedForecast()(jobs, cost, POLICY, 100.0)
    assert later[1] == found[1]
    assert later[3].last_s < found[3].last_s
    hopeful = MaskedForecast(hopeful=True)(jobs, cost, POLICY, 100.0)
    assert hopeful[1].last_s < found[1].last_s
    busy = MaskedForecast(lambda: (9, 0.5))(jobs, cost, POLICY, 100.0)
    assert busy[2].last_s == pytest.approx(found[2].last_s + 0.5)
    mine = MaskedForecast(lambda: (2, 0.1))(jobs, cost, POLICY, 100.0)  # the pass under way is a part of its work
    assert mine[2].last_s == pytest.approx(found[2].last_s)


def submit(engine: MaskedEngine, count: int, due_s: float | None = None) -> Request:
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    request = engine.prepare(text_of(count), params)
    request.due = None if due_s is None else order_of(due_s)
    engine.enter(request)
    return request


def finish(engine: MaskedEngine) -> list[int]:
    """Run all requests; return their numbers in the order of their ends."""
    ended: list[int] = []
    while engine.in_flight:
        before = set(engine._requests)
        assert engine.step()
        ended += sorted(before - set(engine._requests))
    return ended


def test_texts_that_lose_their_pages_keep_their_tokens(engine: MaskedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = []
    for count in (5, 11, 17, 9):
        request = submit(engine, count)
        finish(engine)
        alone.append(list(request.token_ids))
    monkeypatch.setattr("miaotui.dmlm.engine.MOST_TEXTS", 1)
    narrow = MaskedEngine(engine.parts, engine.tokenizer, engine.masked, DecodeOptions(acceptance=Acceptance(count=1)))
    narrow.spares = lambda job: False
    requests = [submit(narrow, 5)]
    for _ in range(3):
        narrow.step()
    requests.append(submit(narrow, 11, due_s=9.0))
    for _ in range(3):
        narrow.step()
    requests.append(submit(narrow, 17, due_s=5.0))
    requests.append(submit(narrow, 9))
    first, late, early, last = (request.number for request in requests)
    assert finish(narrow) == [early, late, first, last]
    assert [list(request.token_ids) for request in requests] == alone
    assert narrow.texts.n_free == 1


def test_time_that_promises_can_spare_goes_to_others(engine: MaskedEngine) -> None:
    engine.spares = lambda job: True
    promised, other = submit(engine, 5, due_s=1e6), submit(engine, 5)
    for _ in range(8):
        engine.step()
    assert abs(engine.texts.find(promised).accepted - engine.texts.find(other).accepted) <= 1  # type: ignore[union-attr]
    engine.spares = lambda job: False
    finish(engine)


def test_a_promise_that_is_lost_gives_way(engine: MaskedEngine) -> None:
    engine.spares = lambda job: False
    lost, kept = submit(engine, 5, due_s=1.0), submit(engine, 5, due_s=2.0)
    engine.texts.defer(lost.number)
    assert finish(engine) == [kept.number, lost.number]


def test_answers_are_shortened_to_the_end_of_a_block(engine: MaskedEngine) -> None:
    request = submit(engine, 5)
    assert engine.whole_blocks(request, 7) == 7  # not begun: any length is decoded as such
    engine.step()
    if engine.masked.block:
        assert engine.whole_blocks(request, 1) == 3  # up to position 8, the end of the open block
        assert engine.whole_blocks(request, 11) == 11
        assert engine.whole_blocks(request, 10) == 3
    else:
        assert engine.whole_blocks(request, 1) == 32
    engine.cancel_all()


@pytest.fixture(scope="module", params=["bd3lm", "llada"])
def llm(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[LLM]:
    folder = tmp_path_factory.mktemp("masked-promises")
    compiled.cache_folder()  # remembered for the rest of the process
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOTUI_HOME", str(folder / "home"))
        with miaotui.load(make_masked_folder(folder, request.param), threads=1, chunk_size=128) as llm:
            yield llm


CALL: dict[str, Any] = {"max_tokens": 24, "ignore_eos": True}


def test_deadlines_are_kept_and_change_no_token(llm: LLM) -> None:
    free = llm.generate("the end", **CALL)
    kept = llm.generate("the end", deadline_ms=60_000, **CALL)
    assert kept.token_ids == free.token_ids
    assert kept.promise is not None
    assert kept.promise.met is True
    assert 0 < kept.promise.predicted_ms < 60_000
    with pytest.raises(DeadlineUnattainableError, match="would take") as refused:
        llm.generate("the end", deadline_ms=0.5, **CALL)
    assert refused.value.predicted_ms > 0.5
    assert llm.generate("the end", **CALL).token_ids == free.token_ids
    assert isinstance(llm.loop.promises, MaskedPromises)
    assert "tokens" in str(llm.capacity())


def test_a_shorter_answer_is_promised_where_a_whole_one_is_late(llm: LLM) -> None:
    options = RequestOptions(deadline=Deadline(total_ms=60_000))
    prompt, params = llm.tokenizer.encode("the end"), SamplingParams(**CALL)
    whole_ms = quote(llm.loop, prompt, params, options).predicted_ms
    least_ms = quote(llm.loop, prompt, SamplingParams(max_tokens=1), options).predicted_ms
    tight = RequestOptions(deadline=Deadline(total_ms=(whole_ms + least_ms) / 2))
    found = quote(llm.loop, prompt, params, tight)
    assert not found.fits
    assert found.fitting_tokens is not None
    assert 1 <= found.fitting_tokens < 24
    short = quote(llm.loop, prompt, SamplingParams(max_tokens=found.fitting_tokens), tight)
    assert short.predicted_ms <= 1.2 * (whole_ms + least_ms) / 2


def test_passes_are_learned_from(llm: LLM) -> None:
    llm.generate("the end", deadline_ms=60_000, **CALL)
    cost = llm.loop.cost
    assert isinstance(cost, MaskedCost)
    passes, tokens = cost.passes, cost.tokens
    llm.generate("and so on", **CALL)
    time.sleep(0.02)
    assert cost.tokens - tokens >= 24
    assert 0 < cost.passes - passes <= 25
    assert cost.tokens_a_pass >= 1.0
    assert all(math.isfinite(each.took_s) and each.predicted_s > 0 for each in cost.recent)
    engine: Any = llm.loop.engine
    assert isinstance(llm.loop.between_steps(lambda: engine.backend.passes[-1][0]), Chunk)
