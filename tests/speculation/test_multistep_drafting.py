"""A head that drafts within a run of passes: equal answers in fewer steps, whatever ends a run."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_head import FreeRows, arrays, arrays_that_look

from miaotui.backends.cpu.backend import require_cpu
from miaotui.backends.drafting import DraftResult, PassLog, PolicyInputs
from miaotui.backends.options import Built
from miaotui.engine.engine import Engine
from miaotui.engine.request import Request
from miaotui.errors import EngineError
from miaotui.kernels.draft import draft_fields as df
from miaotui.kernels.draft.policy_fields import EVIDENCE_CLASSES, MAX_HEAD_EVIDENCE, evidence_class
from miaotui.model import packing
from miaotui.model.draft_head.weights import load_head, write_head
from miaotui.speculation.controller import Speculation
from miaotui.speculation.drafters.head import DraftHead
from miaotui.speculation.drafters.suffix import SuffixDrafter
from miaotui.speculation.policy import DraftPolicy, RowCost
from miaotui.types import SamplingParams
from tiny_engine import open_changed, open_parts, settings_in
from tiny_models import make_tiny_gguf

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
WAYS = (
    SamplingParams(max_tokens=60, ignore_eos=True),
    SamplingParams(max_tokens=60, ignore_eos=True, temperature=0.7, top_p=0.9, seed=1),
    SamplingParams(max_tokens=60, ignore_eos=True, temperature=1.0, seed=2),
    SamplingParams(max_tokens=60, temperature=1.5, seed=3, stop_token_ids=(42, 43, 44, 45, 46)),
    SamplingParams(max_tokens=60, ignore_eos=True, temperature=1.5, seed=4, stop=("a", "\x07")),
    SamplingParams(max_tokens=60, ignore_eos=True, temperature=1.0, seed=5, logprobs=2),
)


class Opened:
    """A tiny model and its random head, with engines that speculate or do not."""

    def __init__(
        self, folder: Path, parts: Built | None = None, looks: bool = False, family: str = "llama", **options: Any
    ) -> None:
        path = make_tiny_gguf(folder, family)
        options = {"most_passes": 8, "threads": 2, **options}
        self.parts, self.tokenizer = open_parts(path, settings_in(folder), **options)
        self.parts = parts or self.parts
        self.backend = require_cpu(self.parts.backend)
        program = self.backend.runner.program
        head = folder / "head.safetensors"
        config = program.config
        write_head(head, arrays_that_look(config) if looks else arrays(config.hidden_size))
        self.weights = load_head(head, program.weights, program.config.tied_head)
        self.runs: list[tuple[int, int, int]] = []  # passes, tokens, drafted rows
        self.widest: list[int] = []  # of each run, the most drafted rows of a pass

    def plain(self) -> Engine:
        return Engine(self.parts, self.tokenizer)

    def head(self) -> DraftHead:
        return DraftHead(self.backend.draft_head(self.weights, 16))

    def drafting(self, past_tokens: int = 0) -> Engine:
        speculation = Speculation(SuffixDrafter(past_tokens=past_tokens), head=self.head())
        speculation.cost = FreeRows()
        self.runs.clear()
        backend = self.backend
        run = type(backend).run_drafting

        def counted(*how: Any) -> DraftResult:
            result = run(backend, *how)
            drafted = [log.verified for log in how[4].log(result.passes)]
            self.runs.append((result.passes, len(result.tokens), sum(drafted)))
            self.widest.append(max(drafted))
            return result

        backend.run_drafting = counted  # type: ignore[method-assign]
        return Engine(self.parts, self.tokenizer, speculation)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return Opened(tmp_path_factory.mktemp("ahead"))


@pytest.fixture(scope="module")
def looking(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return Opened(tmp_path_factory.mktemp("looking"), looks=True)


def answer(engine: Engine, prompt: Sequence[int], params: SamplingParams) -> Request:
    request = engine.submit(prompt, params)
    while engine.step():
        engine.scheduler.check()
    assert engine.scheduler.stats().pages_used == 0
    return request


def said(request: Request) -> tuple[object, ...]:
    done = request.completion()
    return done.token_ids, done.text, done.finish_reason, done.logprobs


@pytest.mark.parametrize("which", ["opened", "looking"])
@pytest.mark.parametrize("params", WAYS)
def test_answers_are_the_same_bytes(which: str, params: SamplingParams, request: pytest.FixtureRequest) -> None:
    opened = request.getfixturevalue(which)
    wanted = said(answer(opened.plain(), PROMPT, params))
    assert said(answer(opened.drafting(), PROMPT, params)) == wanted
    if params.logprobs is None and len(wanted[0]) > 20:  # type: ignore[arg-type]
        assert max(passes for passes, _, _ in opened.runs) > 2
        assert sum(drafted for _, _, drafted in opened.runs) > 10
    elif params.logprobs is not None:
        assert not opened.runs  # only the sampler can choose such tokens


@pytest.mark.parametrize(("family", "kv"), [("llama", "int8"), ("gemma2", "f16"), ("gemma3", "f16")])
def test_heads_look_back_at_windows_and_at_pages_of_any_kind(tmp_path: Path, family: str, kv: str) -> None:
    opened = Opened(tmp_path, looks=True, family=family, kv=kv)
    total = 0
    for params in WAYS[:3]:
        wanted = said(answer(opened.plain(), PROMPT, params))
        assert said(answer(opened.drafting(), PROMPT, params)) == wanted
        total += sum(drafted for _, _, drafted in opened.runs)
    assert total > 10


@pytest.mark.parametrize("most", range(1, 12))
def test_no_token_comes_after_the_last(opened: Opened, most: int) -> None:
    params = SamplingParams(max_tokens=most, ignore_eos=True)
    wanted = said(answer(opened.plain(), PROMPT, params))
    assert said(answer(opened.drafting(), PROMPT, params)) == wanted
    assert sum(tokens for _, tokens, _ in opened.runs) <= most


def test_an_answer_ends_with_the_context(tmp_path: Path) -> None:
    short = Opened(tmp_path, context=64, kv_tokens=64)
    params = SamplingParams(ignore_eos=True)
    wanted = said(answer(short.plain(), PROMPT, params))
    assert said(answer(short.drafting(), PROMPT, params)) == wanted
    assert len(wanted[0]) == 64 - len(PROMPT)  # type: ignore[arg-type]
    assert short.runs


def test_a_pass_gets_no_more_rows_than_it_has_room_for(tmp_path: Path) -> None:
    """The scheduler bounds drafts of Python's; those within a run have nobody else to look after them."""
    narrow = Opened(tmp_path, chunk_size=3, max_sequences=1)
    params = SamplingParams(max_tokens=40, ignore_eos=True)
    wanted = said(answer(narrow.plain(), PROMPT, params))
    assert said(answer(narrow.drafting(), PROMPT, params)) == wanted
    assert narrow.runs
    assert max(narrow.widest) == 2


def test_a_request_that_comes_ends_the_runs(opened: Opened) -> None:
    params = SamplingParams(max_tokens=40, ignore_eos=True, temperature=1.0, seed=7)
    wanted = [said(answer(opened.plain(), PROMPT[n:], params)) for n in range(3)]
    engine, requests = opened.drafting(), list[Request]()
    for start in range(3):
        requests.append(engine.submit(PROMPT[start:], params))
        for _ in range(2):
            engine.step()
        before = len(opened.runs)
        engine.step()
        assert start == 0 or len(opened.runs) == before  # several are answered step by step
    while engine.step():
        engine.scheduler.check()
    assert [said(request) for request in requests] == wanted


def test_whoever_waits_ends_a_run(opened: Opened) -> None:
    engine = opened.drafting()
    run = opened.backend.run_drafting

    def halting(*how: Any) -> DraftResult:
        opened.backend.halt()
        return run(*how)

    opened.backend.run_drafting = halting  # type: ignore[method-assign]
    try:
        answer(engine, PROMPT, SamplingParams(max_tokens=20, ignore_eos=True))
    finally:
        opened.backend.run_drafting = run  # type: ignore[method-assign]
    assert {passes for passes, _, _ in opened.runs} == {1}


def test_a_text_that_promises_more_is_quoted_within_a_run(tmp_path: Path) -> None:
    """From the second time on all of the answer is known."""
    opened = Opened(tmp_path, threads=1)  # a team of one tries nothing out
    engine, logs = opened.drafting(past_tokens=1000), list[PassLog]()
    run = opened.backend.run_drafting

    def noting(*how: Any) -> DraftResult:
        result = run(*how)
        logs.extend(how[4].log(result.passes))
        return result

    opened.backend.run_drafting = noting  # type: ignore[method-assign]
    params = SamplingParams(max_tokens=60, ignore_eos=True, temperature=1.0, seed=11)
    first = said(answer(engine, PROMPT, params))
    logs.clear()
    for _ in range(3):
        assert said(answer(engine, PROMPT, params)) == first
    accepted = {s.name: s.accepted for s in engine.speculation.report()}  # type: ignore[union-attr]
    assert accepted["past"] > 120
    quoted = [each for each in logs if each.is_quoted]
    assert sum(each.brought for each in quoted) > 30
    assert max(each.verified for each in quoted) > 8  # more than one block of attention
    assert all(not each.tokens for each in quoted)


def test_logits_that_are_not_numbers_end_the_answer_where_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a run the answer meets a token whose embedding is broken."""
    params = SamplingParams(max_tokens=40, ignore_eos=True, temperature=1.0, seed=2)
    sound = open_changed(tmp_path, "llama", lambda _: None)
    whole = answer(sound, PROMPT, params).completion().token_ids
    place = next(i for i in range(8, 40) if whole[i] not in (*whole[:i], *PROMPT))

    def poisoned(weights: dict[str, Any]) -> None:
        weights["embed"][whole[place]] = np.nan

    monkeypatch.setattr(packing, "require_finite", lambda *_: None)  # which refuses such weights
    parts = open_changed(tmp_path / "poisoned", "llama", poisoned, most_passes=8).parts
    engine = Opened(tmp_path, parts=parts).drafting()
    request = engine.submit(PROMPT, params)
    while engine.step():
        engine.scheduler.check()
    with pytest.raises(EngineError, match="is nan"):
        request.completion()
    assert tuple(request.token_ids) == whole[: place + 1]
    assert engine.scheduler.stats().pages_used == 0


@pytest.mark.parametrize("which", ["_watch", "quote"])
def test_a_fault_while_drafting_within_a_run_fails_its_own_request(
    opened: Opened, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened.drafting()
    params = SamplingParams(max_tokens=40, ignore_eos=True)

    def broken(*_: object) -> float:
        raise ValueError("a bug")

    assert engine.speculation is not None
    assert engine.speculation.multistep is not None
    monkeypatch.setattr(engine.speculation.multistep, which, broken)
    request = answer(engine, PROMPT, params)
    with pytest.raises(EngineError, match="a bug"):
        request.completion()
    monkeypatch.undo()
    assert said(answer(engine, PROMPT, params)) == said(answer(opened.plain(), PROMPT, params))


def test_quotes_end_before_tokens_that_the_model_does_not_have(opened: Opened) -> None:
    draft, chances = opened.head().draft_run, [0.9] * 30
    odds = PolicyInputs([0.5] * 2 * EVIDENCE_CLASSES, [0.5, 0.5], [1.0] * (1 + df.MAX_DRAFT), 0.0)
    draft.begin(0, 1, 20, 12, odds)
    draft.bound(9, 0)
    assert draft.put([5, 6, 320, 7], chances) == 2
    assert draft.put([-1, 6], chances) == draft.put([1 << 40], chances) == 0
    assert draft.put(list(range(30)), chances) == 8  # rows, but one for the newest token
    assert draft.put(list(range(30)), chances[:3]) == 3
    draft.begin(0, 1, 20, 4, odds)
    assert draft.put(list(range(30)), chances) == 3  # and a token that comes anyway
    draft.begin(0, 1, 20, 1, odds)
    assert draft.put(list(range(30)), chances) == 0


def test_each_pass_of_a_run_is_logged(opened: Opened) -> None:
    """A pass verifies a beginning of the draft, and brings tokens as far as it was right."""
    engine, logs = opened.drafting(), []
    run = opened.backend.run_drafting

    def noting(*how: Any) -> DraftResult:
        result = run(*how)
        logs.append((list(how[4].log(result.passes)), result.tokens))
        return result

    opened.backend.run_drafting = noting  # type: ignore[method-assign]
    for seed in range(8):
        how = SamplingParams(max_tokens=80, ignore_eos=True, temperature=0.7, seed=seed)
        answer(engine, PROMPT, how)
    assert logs
    several = 0
    for passes, tokens in logs:
        assert sum(each.brought for each in passes) == len(tokens)
        at = 0
        for each in passes:
            came, at = tokens[at : at + each.brought], at + each.brought
            assert each.is_quoted or each.verified <= len(each.tokens)
            assert len(each.tokens) == len(each.evidence) <= df.MAX_HEAD_DRAFT
            assert 1 <= each.brought <= each.verified + 1 <= df.MAX_DRAFT + 1
            several += each.brought > 1
            if not each.is_quoted:
                held = list(np.equal(each.tokens[: each.brought - 1], came[: each.brought - 1]))
                assert all(held)
            assert all(1 <= evidence <= MAX_HEAD_EVIDENCE for evidence in each.evidence)
    assert several  # a head may be right by chance


class StartCost(RowCost):
    """The costs that an engine starts with, and head steps that cost nothing."""

    def note(self, rows: int, seconds: float) -> None:
        self._scale_s = 1e9


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_compiled_loop_decides_as_python_does(
    opened: Opened, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows and steps of each pass are those that `DraftPolicy` finds worth it for the numbers of the run."""
    engine, policy = opened.drafting(), DraftPolicy()
    speculation = engine.speculation
    speculation.cost = StartCost()  # type: ignore[union-attr]
    drafting = speculation.multistep  # type: ignore[union-attr]
    run, lengths, seen = opened.backend.run_drafting, set[int](), 0

    def checked(*how: Any) -> DraftResult:
        nonlocal seen
        result, inputs = run(*how), drafting._inputs
        left = how[2]
        for log in how[4].log(result.passes):
            kinds = [evidence_class(e) + EVIDENCE_CLASSES * min(i, 1) for i, e in enumerate(log.evidence)]
            chances = list(itertools.accumulate((inputs.rates[kind] for kind in kinds), operator.mul))
            most = min(df.MAX_HEAD_DRAFT, left - 1)
            for length in range(min(len(chances), most) + 1):
                price = inputs.costs[length + 1] - inputs.costs[length] + inputs.head_step
                promised = (chances[length - 1] if length else 1.0) * inputs.mean_rates[min(length, 1)]
                worth = length < most and policy.step_worth(promised, price, 1.0, inputs.costs[0])
                assert log.is_quoted or worth == (length < len(chances))
            if not log.is_quoted:
                assert log.verified == policy.rows_worth(chances, inputs.costs, 1.0)[0]
                lengths.add(log.verified)
                seen += 1
            left -= log.brought
        return result

    monkeypatch.setattr(opened.backend, "run_drafting", checked)
    for seed in range(4):
        params = SamplingParams(max_tokens=60, ignore_eos=True, temperature=temperature, seed=seed)
        answer(engine, PROMPT, params)
    assert seen > 20
    assert len(lengths) > 1


@pytest.mark.parametrize("which", ["opened", "looking"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_in_a_run_are_those_of_single_steps(
    which: str, temperature: float, request: pytest.FixtureRequest
) -> None:
    """First drafted tokens, which depend on the tokens before alone."""
    opened = request.getfixturevalue(which)
    params = SamplingParams(max_tokens=80, ignore_eos=True, temperature=temperature, seed=3)
    together, one_by_one = dict[int, int](), dict[int, int]()
    engine = opened.drafting()
    run = opened.backend.run_drafting

    def noting(*how: Any) -> DraftResult:
        result, position = run(*how), how[0].start
        for each in how[4].log(result.passes):
            if each.tokens:
                together[position] = each.tokens[0]
            position += each.brought
        return result

    opened.backend.run_drafting = noting
    wanted = said(answer(engine, PROMPT, params))
    engine = opened.drafting()
    assert engine.speculation is not None
    engine.speculation.multistep = None
    head = engine.speculation._head
    begin, step = head.begin, head.step  # type: ignore[union-attr]
    newest: list[int] = []

    def beginning(inputs: Any) -> None:
        newest[:] = [inputs[0].position - 1]
        begin(inputs)

    def stepping() -> Any:
        found = step()
        one_by_one.setdefault(newest[0], found[0].token)
        return found

    head.begin, head.step = beginning, stepping  # type: ignore[union-attr,method-assign]
    assert said(answer(engine, PROMPT, params)) == wanted
    both = together.keys() & one_by_one.keys()
    assert len(both) > 20
    assert [together[at] for at in both] == [one_by_one[at] for at in both]
