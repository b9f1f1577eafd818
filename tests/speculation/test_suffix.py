"""Drafts from suffix indexes, in a real engine: the same bytes, in fewer passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import miaotui
from miaotui.engine.engine import Engine
from miaotui.engine.request import Request, RequestOptions
from miaotui.speculation.controller import Speculation
from miaotui.speculation.drafters.protocol import DraftRequest
from miaotui.speculation.drafters.suffix import PASSAGES, PAST, TEXT, SuffixDrafter, suffix_speculation
from miaotui.speculation.policy import RowCost
from miaotui.types import SamplingParams
from tiny_engine import open_parts, settings_in
from tiny_models import make_tiny_folder, make_tiny_gguf

MIXED = (
    SamplingParams(),
    SamplingParams(temperature=0.8, top_p=0.9, seed=1),
    SamplingParams(temperature=1.3, min_p=0.02, seed=2, logprobs=3),
    SamplingParams(repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.2),
    SamplingParams(temperature=0.2, seed=2**62, logit_bias={7: 2.5, 11: -3.0}, min_tokens=4),
    SamplingParams(logprobs=5, stop_token_ids=(42, 43, 44, 45)),
    SamplingParams(temperature=0.5, top_k=3, seed=9, stop=("e", "\n", "7a")),
)


class FreeRows(RowCost):
    """Rows that cost nothing: every candidate is verified."""

    def ratio(self, rows: int) -> float:
        return 1.0


class Few:
    """A grammar of a kind: only a few tokens may come, others each time."""

    decides_end = True

    def __init__(self) -> None:
        self._turn = 0

    def mask(self) -> Any:
        allowed = np.zeros(320, np.bool_)
        allowed[10 + self._turn % 3 :: 7] = True
        return allowed

    def accept(self, token_id: int) -> None:
        assert self.mask()[token_id]
        self._turn += 1

    def forced(self) -> list[int]:
        return []


def eager(**options: int) -> Speculation:
    speculation = suffix_speculation(**options)
    speculation.cost = FreeRows()
    return speculation


class Trial:
    """A model with two engines: one step by step, one that verifies every candidate."""

    def __init__(self, path: Path, folder: Path, **options: Any) -> None:
        parts, tokenizer = open_parts(path, settings_in(folder), **options)
        self.plain, self.drafted = Engine(parts, tokenizer), Engine(parts, tokenizer, eager())
        self.steps = 0

    def answers(self, engine: Engine, asks: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Every answer, all asked together; ``asks`` are prompts, parameters, whether masked."""
        requests = []
        for prompt, params, masked in asks:
            constraint = Few() if masked else None
            requests.append(engine.prepare(prompt, params, 0, constraint))
            engine.enter(requests[-1])
        self.steps = 0
        while engine.step():
            self.steps += 1
            engine.scheduler.check()
        return [but_time(request) for request in requests]


def but_time(request: Request) -> Any:
    done = request.completion()
    return done.token_ids, done.text, done.finish_reason, done.logprobs


@pytest.fixture(scope="module", params=["llama", "gemma2", "mistral-int8", "qwen3-q4"])
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    folder = tmp_path_factory.mktemp(request.param)
    variant, _, form = request.param.partition("-")
    if form == "q4":
        return Trial(make_tiny_gguf(folder, variant, kind="Q4_0"), folder)
    kv = "int8" if form == "int8" else "f16"
    return Trial(make_tiny_folder(folder, variant), folder, kv=kv, reuse_prefix=not form)


def mixed_asks(max_tokens: int) -> list[tuple[list[int], SamplingParams, bool]]:
    rng = np.random.default_rng(3)
    asks = []
    for number in range(2 * len(MIXED)):
        phrase = [int(i) for i in rng.integers(0, 320, 5 + number % 7)]
        params = dataclasses.replace(MIXED[number % len(MIXED)], max_tokens=max_tokens + number % 5)
        masked = number % 3 == 1 and not params.min_tokens
        asks.append((phrase * (1 + number % 4), params, masked))
    return asks


def test_answers_are_the_same_bytes_and_take_fewer_passes(trial: Trial) -> None:
    asks = mixed_asks(24)
    expected = trial.answers(trial.plain, asks)
    steps = trial.steps
    assert len({answer[0] for answer in expected}) > 10
    assert trial.answers(trial.drafted, asks) == expected
    cold = trial.steps
    assert trial.answers(trial.drafted, asks) == expected  # now the past knows them all
    assert trial.steps < cold <= steps
    for ask, answer in list(zip(asks, expected, strict=True))[:4]:
        assert trial.answers(trial.drafted, [ask]) == [answer]
    text, _, past = trial.drafted.speculation.report()  # type: ignore[union-attr]
    assert text.proposed > 0 < past.accepted


def test_with_so_few_pages_that_requests_are_paused(tmp_path: Path) -> None:
    trial = Trial(make_tiny_folder(tmp_path, "llama"), tmp_path, kv_tokens=160, chunk_size=16)
    asks = mixed_asks(30)
    expected = trial.answers(trial.plain, asks)
    for _ in range(2):
        assert trial.answers(trial.drafted, asks) == expected


def test_cancelled_and_failed_requests_leave_nothing_behind(tmp_path: Path) -> None:
    trial = Trial(make_tiny_folder(tmp_path, "llama"), tmp_path)
    engine, speculation = trial.drafted, trial.drafted.speculation
    assert speculation is not None
    long = SamplingParams(max_tokens=50, ignore_eos=True)
    requests = [engine.submit([1, 2, 3] * 4, long) for _ in range(3)]
    for _ in range(3):
        engine.step()
    engine.cancel(requests[0])
    engine.cancel(requests[0])
    while engine.step():
        pass
    engine.submit([1, 2, 3], long)
    engine.reset()
    assert not speculation._states
    assert not speculation._drafters[-1]._states  # type: ignore[attr-defined]


# what the drafter may see -------------------------------------------------------------------------


def entered(
    drafter: SuffixDrafter,
    number: int,
    prompt: Sequence[int],
    namespace: int = 0,
    passages: Sequence[Sequence[int]] = (),
) -> None:
    drafter.enter(DraftRequest(number, prompt, 100, namespace, passages))


def test_a_request_continues_its_own_text() -> None:
    drafter = SuffixDrafter()
    entered(drafter, 1, [5, 6, 7, 8, 9])
    assert drafter.propose(1) == []
    drafter.extend(1, [5, 6])
    (found,) = drafter.propose(1)
    assert (found.source, found.evidence, found.tokens) == (TEXT, 2, [7, 8, 9, 5, 6])


def test_passages_are_quoted_by_their_request_alone() -> None:
    drafter = SuffixDrafter()
    entered(drafter, 1, [1, 2], passages=[[40, 2, 50, 51], [60, 61]])
    entered(drafter, 2, [1, 2])
    (found,) = drafter.propose(1)
    assert (found.source, found.evidence, found.tokens) == (PASSAGES, 1, [50, 51])
    assert drafter.propose(2) == []


def test_past_answers_stay_within_their_namespace() -> None:
    drafter = SuffixDrafter()
    entered(drafter, 1, [1, 2, 3], namespace=4)
    drafter.extend(1, [10, 11, 12])
    drafter.leave(1, finished=True)
    entered(drafter, 2, [1, 2, 3], namespace=4)
    entered(drafter, 3, [1, 2, 3], namespace=5)
    (found,) = drafter.propose(2)
    assert (found.source, found.evidence, found.tokens) == (PAST, 3, [10, 11, 12])
    assert drafter.propose(3) == []
    drafter.forget(4)
    assert drafter.propose(2) == []


def test_only_finished_answers_are_remembered_and_not_at_all_if_unwanted() -> None:
    for drafter, finished in ((SuffixDrafter(), False), (SuffixDrafter(past_tokens=0), True)):
        entered(drafter, 1, [1, 2, 3])
        drafter.extend(1, [10, 11])
        drafter.leave(1, finished)
        drafter.leave(1, finished)
        entered(drafter, 2, [1, 2, 3])
        assert drafter.propose(2) == []


def test_the_namespaces_used_last_are_kept() -> None:
    drafter = SuffixDrafter(past_tokens=100, namespaces=2)
    for number, namespace in enumerate((1, 2, 1, 3)):
        entered(drafter, number, [1, 2, 3], namespace)
        drafter.extend(number, [10, 11])
        drafter.leave(number, finished=True)
    found = []
    for number, namespace in enumerate((1, 2, 3), 10):
        entered(drafter, number, [1, 2, 3], namespace)
        found.append(bool(drafter.propose(number)))
    assert found == [True, False, True]


def test_passages_reach_the_drafter_through_the_request(tmp_path: Path) -> None:
    trial = Trial(make_tiny_folder(tmp_path, "llama"), tmp_path)
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    prompt = list(range(30, 50))
    ((tokens, *_),) = trial.answers(trial.plain, [(prompt, params, False)])
    asked = RequestOptions(passages=[list(tokens)])
    request = trial.drafted.prepare(prompt, params)
    request.passages = asked.passages
    trial.drafted.enter(request)
    while trial.drafted.step():
        pass
    assert request.completion().token_ids == tokens
    reports = trial.drafted.speculation.report()  # type: ignore[union-attr]
    assert {each.name: each.accepted for each in reports}[PASSAGES] > 5


@pytest.mark.model
@pytest.mark.slow
def test_the_real_model_says_the_same(tmp_path: Path) -> None:
    with miaotui.load("smollm2-135m", context=1024, speculate=False) as llm:
        parts = llm.loop.model.parts
        plain = Engine(parts, llm.tokenizer)
        drafted = Engine(parts, llm.tokenizer, eager())
        questions = ("Count from one to thirty.", "List ten animals, one a line.", "Who are you?")
        prompts = [llm.chat_tokens([{"role": "user", "content": q}]) for q in questions]
        answers: list[list[Any]] = []
        for engine in (plain, drafted, drafted):
            requests = [
                engine.submit(prompt, dataclasses.replace(params, max_tokens=60))
                for prompt in prompts
                for params in MIXED
            ]
            while engine.step():
                pass
            answers.append([but_time(request) for request in requests])
        assert answers[0] == answers[1] == answers[2]


# from outside -------------------------------------------------------------------------------------


def test_load_speculates_unless_told_not_to(tmp_path: Path) -> None:
    path = make_tiny_folder(tmp_path, "llama")
    params = {"max_tokens": 30, "ignore_eos": True, "temperature": 0.4}
    with miaotui.load(path, format="q8") as fast, miaotui.load(path, speculate=False) as plain:
        assert fast.loop.engine.speculation is not None
        assert plain.loop.engine.speculation is None
        for _ in range(2):
            one, other = fast.generate("abab", **params), plain.generate("abab", **params)
            assert (one.token_ids, one.text) == (other.token_ids, other.text)
            assert other.timing.tokens_per_pass == 1.0 <= one.timing.tokens_per_pass
        assert [source.name for source in fast.drafts] == ["text", "passages", "past"]
        assert plain.drafts == ()
