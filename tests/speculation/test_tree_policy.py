"""A second candidate becomes a branch where that pays by its own record, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from test_speculation import FLAT, Asker, Scripted, Table, controller

from miaotui.engine.engine import Engine
from miaotui.schedule.plan import Branch, Chunk, DraftTree, Plan
from miaotui.speculation.acceptance_rates import AcceptanceRates, RequestRecord
from miaotui.speculation.controller import Speculation
from miaotui.speculation.drafters.protocol import Candidate, DraftRequest
from miaotui.speculation.policy import (
    BranchCost,
    BranchOffer,
    BranchRate,
    DraftPolicy,
    RowCost,
    choose_branch,
    find_fork,
)
from miaotui.types import SamplingParams
from tiny_engine import open_parts, settings_in
from tiny_models import make_tiny_folder

TRUNK, OTHER = Candidate("good", 9, [5, 6, 7, 8]), Candidate("bad", 4, [5, 6, 1, 2])
TREE = DraftTree((5, 6, 7, 8, 1, 2), (-1, 0, 1, 2, 1, 4))


def test_the_fork_has_the_most_evidence() -> None:
    same, worse = Candidate("good", 8, [5, 6, 7]), Candidate("bad", 2, [1])
    fork = find_fork(TRUNK, [same, worse, TRUNK, OTHER])
    assert fork is not None
    assert (fork.branch, fork.depth) == (OTHER, 2)
    assert fork.tree(4, 2) == TREE
    assert fork.tree(3, 1) == DraftTree((5, 6, 7, 1), (-1, 0, 1, 1))
    assert find_fork(TRUNK, [TRUNK, same]) is None


def test_a_branch_is_learned_from_where_the_trunk_was_wrong() -> None:
    fork = find_fork(TRUNK, [TRUNK, OTHER])
    assert fork is not None
    rate = BranchRate()
    for nothing in ((5, 6, 7), (5, 6), (9,), (5, 9)):
        fork.learn(nothing, rate)
    assert rate.rate == BranchRate().rate
    for _ in range(1000):
        fork.learn((5, 6, 1), rate)
    assert 0.95 < rate.rate < 1.0
    for _ in range(1000):
        fork.learn((5, 6, 9), rate)
    assert 0.0 < rate.rate < 0.05


def test_a_branch_has_the_chances_that_the_trunk_leaves() -> None:
    fork = find_fork(TRUNK, [TRUNK, OTHER])
    assert fork is not None
    first, second = fork.chances([0.9, 0.8, 0.3, 0.2], AcceptanceRates(0).rates, RequestRecord(), BranchRate(), 9)
    assert first == pytest.approx((0.8 - 0.3) * 0.1)
    assert 0 < second < first
    assert len(fork.chances([0.9, 0.8, 0.3], AcceptanceRates(0).rates, RequestRecord(), BranchRate(), 1)) == 1


@pytest.mark.parametrize("turned", [(5, 6, 1, 2, 3), (5, 6, 9)])
def test_a_branch_that_is_often_right_is_verified_and_one_that_is_not_is_not(turned: tuple[int, ...]) -> None:
    asker = Asker(1)
    speculation = controller(Scripted({1: [TRUNK, OTHER]}), Table([1.0] * 100), asker)
    for came in [(5, 6, 7, 8, 3), turned] * 150:
        asker.token_ids[:] = [0]
        speculation.propose()
        speculation.note(Plan((Chunk(1, 0, (0,), (0,), 1),)), {1: came}, 0.001)
    asker.token_ids[:] = [0]
    draft = speculation.propose().drafts[1]
    if 9 in turned:
        assert draft == [5, 6, 7, 8]
    else:
        assert isinstance(draft, DraftTree)
        assert draft.trunk[:2] == (5, 6)
        assert set(draft.tokens) >= {5, 6, 7, 1}


def test_without_a_record_there_is_no_branch() -> None:
    asker = Asker(1)
    assert controller(Scripted({1: [TRUNK, OTHER]}), FLAT, asker).propose().drafts == {1: [5, 6, 7, 8]}


def test_dear_rows_and_dear_branches_leave_the_trunk_alone() -> None:
    fork = find_fork(TRUNK, [TRUNK, OTHER])
    assert fork is not None
    offers = [None, BranchOffer(fork, [0.4, 0.3])]
    cheap = BranchCost()
    assert choose_branch(offers, 3.0, 4, Table([1.0] * 9), cheap, DraftPolicy()) == (1, 2)
    assert choose_branch(offers, 3.0, 4, Table([1.0] * 4 + [1.02, 1.3]), cheap, DraftPolicy()) == (1, 1)
    assert choose_branch(offers, 3.0, 4, Table([1.0] * 4 + [1.2, 1.3]), cheap, DraftPolicy()) == (-1, 0)
    dear, cost = BranchCost(), RowCost()
    cost.note(1, 0.001)
    for _ in range(100):
        dear.note(cost, 5, 1, cost.seconds(5) + 0.0005)
    assert dear.ratio == pytest.approx(0.5, abs=0.01)
    assert choose_branch(offers, 3.0, 4, Table([1.0] * 9), dear, DraftPolicy()) == (-1, 0)


def test_the_report_gives_each_source_its_own() -> None:
    asker = Asker(1)
    speculation = controller(Scripted({1: [TRUNK, OTHER]}), FLAT, asker)
    speculation.propose()
    branch = Branch(5, 2, 2, 3, (0,), (0, 1, 2), None)
    chunk = Chunk(1, 0, (0, *TREE.tokens), (0,), 7, (branch,))
    speculation.note(Plan((chunk,)), {1: [5, 6, 1, 2, 4]}, 0.001)
    good, bad = speculation.report()
    assert (good.proposed, good.accepted) == (4, 2)
    assert (bad.proposed, bad.accepted) == (2, 2)


class TwoMinds:
    """Of its two sources one is always right, now this one and now that."""

    sources = ("odd", "even")
    is_certain = False

    def __init__(self, answers: dict[int, Sequence[int]]) -> None:
        self.answers = answers
        self.done: dict[int, int] = {}

    def enter(self, request: DraftRequest) -> bool:
        self.done[request.number] = 0
        return True

    def extend(self, number: int, tokens: Sequence[int]) -> None:
        self.done[number] += len(tokens)

    def propose(self, number: int, after: Sequence[int] = ()) -> Sequence[Candidate]:
        done = self.done[number]
        right = list(self.answers[number][done : done + 4])
        wrong = [token ^ 1 for token in right]
        odd = bool(done * 7919 % 13 % 2)
        return [Candidate("odd", 6, right if odd else wrong), Candidate("even", 5, wrong if odd else right)]

    def leave(self, number: int, finished: bool) -> None:
        del self.done[number]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_engine_that_branches_says_the_same_sooner(tmp_path: Path, temperature: float) -> None:
    path = make_tiny_folder(tmp_path, "llama")
    prompts = [[3 * i + j for j in range(13 + i)] for i in range(3)]
    params = SamplingParams(temperature=temperature, seed=8, max_tokens=90, ignore_eos=True)

    def run(speculation: Speculation | None) -> tuple[list[Sequence[int]], int, int]:
        engine = Engine(*open_parts(path, settings_in(tmp_path)), speculation)
        requests = [engine.submit(prompt, params) for prompt in prompts]
        steps = trees = 0
        while engine.step():
            engine.scheduler.check()
            steps += 1
            trees += any(chunk.branches for chunk in engine.latest.chunks)
        return [request.completion().token_ids for request in requests], steps, trees

    plain, plain_steps, _ = run(None)
    speculation = Speculation(TwoMinds(dict(enumerate(plain))))
    speculation.cost = FLAT
    found, steps, trees = run(speculation)
    assert found == plain
    assert trees > 10
    assert steps < plain_steps / 2
    assert all(source.accepted > 0 for source in speculation.report())
