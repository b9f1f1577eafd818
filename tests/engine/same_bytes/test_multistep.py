"""Passes that follow each other without a look at what they bring: the same answers in fewer steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from test_same_bytes import mixed_asks

from miaotui.backends.options import MOST_PASSES, BackendName, EngineOptions
from miaotui.engine.engine import Engine
from miaotui.engine.request import Request
from miaotui.errors import EngineError, RequestError
from miaotui.model import packing
from miaotui.types import Completion, SamplingParams
from tiny_engine import open_changed, open_engine
from tiny_models import make_tiny_folder

pytestmark = pytest.mark.usefixtures("backend")

PLAIN = (
    SamplingParams(),
    SamplingParams(temperature=0.8, top_p=0.9, seed=1),
    SamplingParams(temperature=1.3, min_p=0.02, seed=2),
    SamplingParams(temperature=0.7, top_k=40, seed=3),
    SamplingParams(temperature=1.0, top_k=200, seed=2**62),
    SamplingParams(temperature=1.0, seed=6, stop_token_ids=(42, 43, 44, 45)),
    SamplingParams(temperature=2.0, top_p=0.5, top_k=100, min_p=0.01, seed=5),
    SamplingParams(temperature=1.5, seed=9, stop=("a", "\x07")),
)  # all that a pass can choose by itself


@pytest.fixture(autouse=True)
def _patience(backend: BackendName, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let passes of the slow backend follow each other too."""
    if backend == "reference":
        monkeypatch.setattr("miaotui.engine.engine.FRAME_S", 60.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_folder(tmp_path_factory.mktemp("models"), "llama")


def played(
    engine: Engine, asks: Sequence[tuple[Sequence[int], SamplingParams]], every: int = 0
) -> tuple[list[Completion], int]:
    """The answers, and how many steps there were; a request comes with each ``every``-th step."""
    waiting, requests, steps = list(asks), list[Request](), 0
    while waiting or engine.in_flight:
        while waiting and steps >= every * len(requests):
            requests.append(engine.submit(*waiting.pop(0)))
        engine.step()
        engine.scheduler.check()
        steps += 1
    stats = engine.scheduler.stats()
    assert (stats.pages_used, stats.running, stats.waiting, stats.paused) == (0, 0, 0, 0)
    return [request.completion() for request in requests], steps


def said(answers: Sequence[Completion]) -> list[tuple[object, ...]]:
    return [(a.token_ids, a.text, a.finish_reason) for a in answers]


def asks_of(params: Sequence[SamplingParams], max_tokens: int) -> list[tuple[list[int], SamplingParams]]:
    rng = np.random.default_rng(3)
    return [
        (
            [int(i) for i in rng.integers(0, 250, 5 + 7 * number)],
            dataclasses.replace(each, max_tokens=max_tokens + number),
        )
        for number, each in enumerate(params)
    ]


@pytest.mark.parametrize("threads", [1, 2])
def test_many_passes_a_step_give_what_one_gives(path: Path, tmp_path: Path, threads: int) -> None:
    asks = asks_of(PLAIN, 60)
    one, steps = played(open_engine(path, tmp_path, threads=threads), asks)
    many, fewer = played(open_engine(path, tmp_path, threads=threads, most_passes=8), asks)
    assert said(many) == said(one)
    assert fewer < steps / 2
    assert [a.timing.tokens_per_pass for a in many] == [1.0] * len(asks)


@pytest.mark.parametrize("every", [0, 1, 3])
def test_beside_requests_whose_tokens_a_pass_cannot_choose(path: Path, tmp_path: Path, every: int) -> None:
    asks = mixed_asks(250, 20)
    one, _ = played(open_engine(path, tmp_path), asks, every)
    many, _ = played(open_engine(path, tmp_path, most_passes=8), asks, every)
    assert said(many) == said(one)


def test_with_so_few_pages_that_sequences_are_paused(path: Path, tmp_path: Path) -> None:
    asks = asks_of(PLAIN, 60)
    one, _ = played(open_engine(path, tmp_path), asks)
    engine = open_engine(path, tmp_path, most_passes=8, context=192, kv_tokens=208)
    few, _ = played(engine, asks)
    assert engine.scheduler.stats().pauses > 0
    assert said(few) == said(one)


@pytest.mark.parametrize("params", PLAIN[:5])
def test_the_pass_draws_what_the_sampler_would(path: Path, tmp_path: Path, params: SamplingParams) -> None:
    """With log-probabilities the sampler looks at the logits itself."""
    engine, prompt = open_engine(path, tmp_path), [3, 1, 4, 1, 5]
    longer = dataclasses.replace(params, max_tokens=80, ignore_eos=True)
    looked, drawn = (engine.submit(prompt, dataclasses.replace(longer, logprobs=n)) for n in (0, None))
    while engine.step():
        pass
    assert drawn.choice
    assert not looked.choice
    assert drawn.completion().token_ids == looked.completion().token_ids


def test_an_end_token_ends_the_step(path: Path, tmp_path: Path) -> None:
    """No pass is made that nobody needs: the keys of the last step end with the answer."""
    whole = played(open_engine(path, tmp_path), [([1, 2, 3], SamplingParams(max_tokens=30, ignore_eos=True))])
    tokens = whole[0][0].token_ids
    place = next(i for i in range(3, 30) if tokens[i] not in tokens[:i])
    params = SamplingParams(max_tokens=30, ignore_eos=True, stop_token_ids=(tokens[place],))
    engine = open_engine(path, tmp_path, most_passes=8)
    passes = counted(engine)
    answers, _ = played(engine, [([1, 2, 3], params)])
    assert answers[0].token_ids == tokens[: place + 1]
    assert sum(passes) == place + 1


def test_an_answer_that_is_shortened_gets_no_pass_more(path: Path, tmp_path: Path) -> None:
    engine = open_engine(path, tmp_path, most_passes=8)
    passes = counted(engine)
    request = engine.submit([1, 2, 3], SamplingParams(max_tokens=100, ignore_eos=True))
    while len(request.token_ids) < 10:
        engine.step()
    request.shorten(len(request.token_ids) + 3)
    while engine.step():
        pass
    assert sum(passes) == len(request.completion().token_ids) == len(request.token_ids)


def test_whoever_waits_ends_a_run(path: Path, tmp_path: Path) -> None:
    engine = open_engine(path, tmp_path, most_passes=8)
    passes = counted(engine, before=engine.backend.halt)
    played(engine, [([1, 2, 3], SamplingParams(max_tokens=20, ignore_eos=True))])
    assert passes == [1] * 20
    assert played(engine, [([1, 2, 3], SamplingParams(max_tokens=20))])[1] > 0


def counted(engine: Engine, before: Callable[[], None] = lambda: None) -> list[int]:
    """The passes of each run from now on."""
    passes: list[int] = []
    run = engine.backend.run

    def counting(*how: object) -> object:
        before()
        result = run(*how)  # type: ignore[arg-type]
        passes.append(result.passes)
        return result

    engine.backend.run = counting  # type: ignore[method-assign,assignment]
    return passes


def test_a_step_is_one_pass_while_passes_take_long(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miaotui.engine.engine.FRAME_S", 0.0)
    engine = open_engine(path, tmp_path, most_passes=8)
    passes = counted(engine)
    played(engine, [([1, 2, 3], SamplingParams(max_tokens=12, ignore_eos=True))])
    assert passes == [1] * 12


def test_logits_that_are_not_numbers_end_only_their_own_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a run one sequence meets a token whose embedding is broken."""
    asks = asks_of([SamplingParams(ignore_eos=True)] * 2, 40)
    sound, _ = played(open_changed(tmp_path, "llama", lambda _: None), asks)
    bad, good = (answer.token_ids for answer in sound)
    place = next(i for i in range(5, 40) if bad[i] not in (*bad[:i], *good, *asks[0][0], *asks[1][0]))

    def poisoned(weights: dict[str, NDArray[np.float32]]) -> None:
        weights["embed"][bad[place]] = np.nan

    monkeypatch.setattr(packing, "require_finite", lambda *_: None)  # which refuses such weights
    engine = open_changed(tmp_path / "poisoned", "llama", poisoned, most_passes=8)
    requests = [engine.submit(*ask) for ask in asks]
    while engine.step():
        engine.scheduler.check()
    assert requests[1].completion().token_ids == good
    assert tuple(requests[0].token_ids) == bad[: place + 1]
    with pytest.raises(EngineError, match="is nan"):
        requests[0].completion()


@pytest.mark.parametrize("most", [0, MOST_PASSES + 1])
def test_a_number_of_passes_out_of_range_is_refused(most: int) -> None:
    with pytest.raises(RequestError, match="most_passes must be"):
        EngineOptions(most_passes=most)


class Every:
    """A constraint that leaves every third token, another third after each.

    Masks of booleans are the sampler's to apply, those of words are applied in the pass; ``words`` says of
    which tokens they are words. ``break_at`` is the token whose mask or acceptance raises ``fault``.
    """

    decides_end = True

    def __init__(
        self,
        words: Callable[[int], bool] = lambda _: True,
        *,
        break_at: int = -1,
        fault: BaseException | None = None,
        late: bool = False,
    ) -> None:
        self.turn, self._words, self._break_at, self._fault = 0, words, break_at, fault
        self._late = late

    def mask(self) -> NDArray[np.uint32] | NDArray[np.bool_]:
        if self.turn == self._break_at and self._fault is not None and not self._late:
            raise self._fault
        allowed = np.arange(320) % 3 == self.turn % 3
        packed = np.packbits(allowed, bitorder="little").view(np.uint32)
        return packed if self._words(self.turn) else allowed

    def accept(self, token_id: int) -> None:
        if self.turn == self._break_at and self._fault is not None and self._late:
            raise self._fault
        assert token_id % 3 == self.turn % 3
        self.turn += 1

    def forced(self) -> Sequence[int]:
        return ()


def answers_within(
    engine: Engine, params: Sequence[SamplingParams], constraints: Sequence[Every]
) -> tuple[list[Request], int]:
    """Requests held to constraints, run together to their ends, and the number of steps."""
    requests = [
        engine.prepare([3, 1, 4, 1, 5], each, constraint=constraint)
        for each, constraint in zip(params, constraints, strict=True)
    ]
    for request in requests:
        engine.enter(request)
    steps = 0
    while engine.step():
        engine.scheduler.check()
        steps += 1
    return requests, steps


@pytest.mark.parametrize("params", PLAIN[:7])
def test_a_mask_in_the_pass_leaves_what_the_sampler_s_would(path: Path, tmp_path: Path, params: SamplingParams) -> None:
    """Alone, and for several passes a step, all in words, none, or every fourth token."""
    ways = (lambda _: True, lambda _: False, lambda turn: turn % 4 > 0)
    longer = dataclasses.replace(params, max_tokens=60)
    found, steps = [], []
    for most in (1, 8):
        for words in ways:
            engine = open_engine(path, tmp_path, most_passes=most)
            requests, count = answers_within(engine, [longer], [Every(words)])
            found.append(requests[0].completion().token_ids)
            steps.append(count)
    assert len(set(found)) == 1
    assert len(found[0]) > 5
    assert steps[3] < steps[0] / 2
    assert steps[5] < steps[0]


def test_masks_of_several_beside_a_free_answer(path: Path, tmp_path: Path) -> None:
    params = [dataclasses.replace(each, max_tokens=50) for each in PLAIN[:5]]
    found = []
    for most in (1, 8):
        engine = open_engine(path, tmp_path, most_passes=most)
        free = engine.submit([1, 2, 3], params[0])
        requests, _ = answers_within(engine, params, [Every() for _ in params])
        found.append(said([each.completion() for each in (free, *requests)]))
    assert found[0] == found[1]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("place", [0, 1, 5, 11])
@pytest.mark.parametrize("fault", [RequestError("too complex"), ValueError("a bug")])
def test_a_constraint_that_fails_in_a_run_fails_its_own_request(
    path: Path, tmp_path: Path, place: int, late: bool, fault: Exception
) -> None:
    """What came before can be read, and nobody else notices."""
    params = SamplingParams(max_tokens=40)
    (whole,), _ = answers_within(open_engine(path, tmp_path), [params], [Every()])
    constraints = [Every(break_at=place, fault=fault, late=late), Every()]
    engine = open_engine(path, tmp_path, most_passes=8)
    (bad, good), _ = answers_within(engine, [params] * 2, constraints)
    assert bad.finish_reason == "failed"
    assert engine.scheduler.stats().pages_used == 0
    known = len(bad.token_ids)
    assert tuple(bad.token_ids) == tuple(whole.token_ids)[:known]
    assert known == place
    assert good.completion().token_ids == tuple(whole.token_ids)
    with pytest.raises((RequestError, EngineError), match=str(fault)):
        bad.completion()


def test_an_interrupt_while_masks_are_computed_arrives(path: Path, tmp_path: Path) -> None:
    """Compiled code cannot carry exceptions: they wait for the end of the pass."""
    engine = open_engine(path, tmp_path, most_passes=8)
    constraint = Every(break_at=5, fault=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        answers_within(engine, [SamplingParams(max_tokens=40)], [constraint])
    engine.cancel_all()
    assert engine.scheduler.stats().pages_used == 0
    assert played(engine, [([1, 2, 3], SamplingParams(max_tokens=5))])[0][0].token_ids
