"""Trees of drafts change when tokens come, never which: exact comparison with requests alone.

The last bit of every row of logits is compared, so a key or value in the wrong page cannot hide.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.engine.grammar.constraint import Grammars
from miaotui.engine.grammar.source import from_schema
from miaotui.errors import EngineError
from miaotui.schedule.plan import DraftTree
from miaotui.types import SamplingParams
from recorded_answers import ALONE, Ask, Case, Recorder, assert_same
from tiny_engine import open_engine, settings_in
from tiny_models import make_tiny_folder, make_tiny_gguf

Maker = Callable[[Sequence[int]], DraftTree]  # the coming tokens -> a tree


def chain(tokens: Sequence[int], after: int, begin: int) -> list[int]:
    """Parents of a line that begins at index ``begin`` and follows the token at ``after``."""
    return [after, *range(begin, begin + len(tokens) - 1)] if tokens else []


def forked(coming: Sequence[int], fork: int, right: int) -> DraftTree:
    """A trunk that is wrong from depth ``fork`` on, and a branch that is right ``right`` times there."""
    trunk = [*coming[:fork], *(token ^ 1 for token in coming[fork : fork + 3])]
    side = list(coming[fork : fork + right])
    parents = [*range(-1, len(trunk) - 1), *chain(side, fork - 1, len(trunk))]
    return DraftTree((*trunk, *side), tuple(parents))


def branch_of_branch(coming: Sequence[int]) -> DraftTree:
    """The right path turns off a wrong trunk at once, and off the first branch again later."""
    first = forked(coming, 0, 4)
    tokens, parents = list(first.tokens), list(first.parents)
    if len(coming) > 6:
        leave = len(tokens) - 2  # one before the end of the branch, which goes wrong there
        tokens[-1] ^= 1
        side = coming[3:7]
        parents += chain(side, leave, len(tokens))
        tokens += side
    return DraftTree(tuple(tokens), tuple(parents))


def random_tree(coming: Sequence[int], rng: np.random.Generator) -> DraftTree:
    """Any tree, in which some paths are right."""
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    for index in range(int(rng.integers(1, 14))):
        parent = index - 1 if rng.random() < 0.6 else int(rng.integers(-1, index))
        depth = 0 if parent < 0 else depths[parent] + 1
        hoped = coming[depth] if depth < len(coming) else 5
        tokens.append(hoped if rng.random() < 0.7 else hoped ^ 1)
        parents.append(parent)
        depths.append(depth)
    return DraftTree(tuple(tokens), tuple(parents))


SHAPES: dict[str, Maker] = {
    "wrong at once": lambda coming: forked(coming, 0, 5),
    "wrong later": lambda coming: forked(coming, 2, 3),
    "deep": lambda coming: forked(coming, 1, 24),
    "twice": branch_of_branch,
}
HOT = SamplingParams(temperature=1.0, seed=3, max_tokens=40, ignore_eos=True)
COLD = SamplingParams(max_tokens=40, ignore_eos=True)
PENALISED = SamplingParams(temperature=0.9, seed=9, frequency_penalty=0.4, logprobs=2, max_tokens=33, ignore_eos=True)


def asks(vocab_size: int = 320) -> list[Ask]:
    """Prompts that end at and around the borders of pages."""
    rng = np.random.default_rng(5)
    stem = tuple(int(i) for i in rng.integers(0, vocab_size, 64))
    params = (COLD, HOT, PENALISED)
    return [(stem[:length], params[i % 3]) for i, length in enumerate((14, 15, 16, 17, 31, 40))]


@pytest.fixture(scope="module", params=["llama", "gemma2", "mistral-int8", "qwen3-q4"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    variant, _, form = request.param.partition("-")
    if form == "q4":
        return Case(make_tiny_gguf(folder, variant, kind="Q4_0"), settings_in(folder), asks())
    kv = "int8" if form == "int8" else "f16"
    return Case(make_tiny_folder(folder, variant), settings_in(folder), asks(), kv=kv)


def answer(tiny: Case, make: Maker, **options: Any) -> Recorder:
    """All answers, with trees made from what comes, are those without."""
    recorder = tiny.recorder(**options)

    def draft(number: int, so_far: Sequence[int]) -> DraftTree:
        return make(tiny.alone[number].token_ids[len(so_far) :])

    assert_same(recorder.answers(tiny.asks, drafter=draft, checked=True), tiny.alone)
    stats = recorder.engine.scheduler.stats()
    assert stats.pages_used == 0
    assert stats.pages_free + stats.pages_evictable == recorder.engine.scheduler.config.n_pages
    return recorder


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reuse_prefix", [True, False])
def test_the_right_branch_is_kept(tiny: Case, shape: str, reuse_prefix: bool) -> None:
    recorder = answer(tiny, SHAPES[shape], reuse_prefix=reuse_prefix, threads=2)
    steps = max(len(one.token_ids) for one in tiny.alone)
    assert recorder.backend.passes < steps  # a wrong trunk alone would save none, or two in three


def test_a_branch_is_worth_what_its_trunk_would_be(tiny: Case) -> None:
    """With the trunk wrong from its first token, five tokens come from each pass, and one more."""
    lone = dataclasses.replace(COLD, max_tokens=37)
    case = Case(tiny.path, tiny.settings, [(tiny.asks[0][0], lone)], **tiny.options)
    assert answer(case, SHAPES["wrong at once"], **ALONE).backend.passes <= 2 + 36 // 6


@pytest.mark.parametrize("kv_tokens", [64, 96, 160])
def test_without_pages_a_tree_is_its_trunk(tiny: Case, kv_tokens: int) -> None:
    fitting = [(p, dataclasses.replace(q, max_tokens=20)) for p, q in tiny.asks]
    case = Case(tiny.path, tiny.settings, fitting, **tiny.options)
    for make in (SHAPES["deep"], SHAPES["wrong later"]):
        answer(case, make, kv_tokens=kv_tokens, chunk_size=16)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), kv_tokens=st.sampled_from([96, 192, 1024]))
def test_any_tree(tiny: Case, seed: int, kv_tokens: int) -> None:
    rng = np.random.default_rng(seed)
    answer(tiny, lambda coming: random_tree(coming, rng), kv_tokens=kv_tokens)


def test_unknown_tokens_and_what_follows_them_are_left_out(tiny: Case) -> None:
    def make(coming: Sequence[int]) -> DraftTree:
        good = forked(coming, 0, 4)
        tokens = (2**40, *good.tokens[1:], -1, 7)
        return DraftTree(tokens, (*good.parents, len(good) - 1, len(good)))

    answer(tiny, make)


def test_a_grammar_follows_the_branch(tmp_path: Path) -> None:
    engine = open_engine(make_tiny_folder(tmp_path, "llama"), tmp_path)
    grammars = Grammars(engine.tokenizer, 320)
    schema = {"type": "array", "items": {"enum": ["red", "green", 3]}, "minItems": 4, "maxItems": 9}

    def run(make: Maker | None, known: Sequence[int], params: SamplingParams) -> tuple[Any, int]:
        constraint = grammars.constraint(from_schema(schema))
        request = engine.prepare([104, 101, 108], params, constraint=constraint)
        engine.enter(request)
        steps = 0
        while not request.is_over:
            coming = known[len(request.token_ids) :]
            engine.step({request.number: make(coming)} if make and coming else {})
            engine.scheduler.check()
            steps += 1
        return request.completion(), steps

    for params in (SamplingParams(max_tokens=60), SamplingParams(temperature=1.0, seed=4)):
        plain, plain_steps = run(None, (), params)
        for make in SHAPES.values():
            found, steps = run(make, plain.token_ids, params)
            assert (found.token_ids, found.text) == (plain.token_ids, plain.text)
            assert steps < plain_steps


def test_a_plan_that_is_dropped_and_a_cancelled_request_leave_no_page(tmp_path: Path) -> None:
    engine = open_engine(make_tiny_folder(tmp_path, "llama"), tmp_path)
    scheduler = engine.scheduler
    request = engine.submit(list(range(20)), COLD)
    engine.step()
    tree = forked(range(30), 0, 20)
    for _ in range(3):
        plan = scheduler.plan({request.number: tree})
        assert plan.chunks[0].branches
        scheduler.check()
    engine.cancel(request)
    scheduler.check()
    assert scheduler.stats().pages_used == 0


def test_trees_know_their_parents() -> None:
    for tokens, parents in (((1, 2), (-1,)), ((1,), (0,)), ((1, 2), (-1, 1)), ((1,), (-2,))):
        with pytest.raises(EngineError, match="parent"):
            DraftTree(tokens, parents)
    tree = DraftTree((1, 2, 3, 4, 5), (-1, 0, 0, 2, -1))
    assert tree.trunk == (1, 2)
    assert tree.cut(9, 1) == DraftTree((1, 5), (-1, -1))
    assert tree.cut(3, 9) == DraftTree((1, 2, 3), (-1, 0, 0))
    assert tree.kept(lambda token, _: token != 1) == DraftTree((5,), (-1,))
