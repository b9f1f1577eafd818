"""The constraint of thoughts: a budget closes them, a grammar begins behind them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from miaotui.engine.grammar.reasoning import ReasoningConstraint, ReasoningTokens

VOCABULARY = [b"<think>", b"</think>", b"\n", b"hm", b"{", b"}", b"</s>", b"\xe4\xb8", b"\xad", *[b"x"] * 40]
BEGIN, END, LINE, HM, OPEN, CLOSE, EOS, HALF, REST = range(9)
TOKENS = ReasoningTokens((BEGIN,), (), b"</think>", (LINE, END, LINE), len(VOCABULARY), VOCABULARY.__getitem__)


class Braces:
    """A grammar of ``{`` ``}`` and the end."""

    decides_end = True

    def __init__(self) -> None:
        self.taken: list[int] = []

    def mask(self) -> NDArray[np.uint32] | None:
        words = np.zeros(2, np.uint32)
        words[0] = 1 << (OPEN, CLOSE, EOS)[len(self.taken)]
        return words

    def accept(self, token_id: int) -> None:
        assert token_id == (OPEN, CLOSE, EOS)[len(self.taken)]
        self.taken.append(token_id)

    def forced(self) -> Sequence[int]:
        return [(OPEN, CLOSE, EOS)[len(self.taken)]]


def allowed(constraint: ReasoningConstraint) -> set[int] | None:
    words = constraint.mask()
    if words is None:
        return None
    return {i for i in range(len(VOCABULARY)) if words[i // 32] >> i % 32 & 1}


def feed(constraint: ReasoningConstraint, *tokens: int) -> None:
    for token in tokens:
        mask = allowed(constraint)
        assert mask is None or token in mask
        constraint.accept(token)


def test_a_budget_closes_the_thought() -> None:
    constraint = ReasoningConstraint(TOKENS, is_open=True, budget=2)
    feed(constraint, HM, HM)
    assert constraint.forced() == [LINE, END, LINE]
    for token in (LINE, END, LINE):
        assert allowed(constraint) == {token}
        constraint.accept(token)
    assert allowed(constraint) is None
    assert not constraint.decides_end


def test_a_character_is_finished_first() -> None:
    constraint = ReasoningConstraint(TOKENS, is_open=True, budget=1)
    feed(constraint, HALF)
    assert allowed(constraint) is None
    feed(constraint, REST)
    assert allowed(constraint) == {LINE}


def test_bytes_that_are_no_character_do_not_keep_it_open() -> None:
    constraint = ReasoningConstraint(TOKENS, is_open=True, budget=1)
    feed(constraint, HALF, HALF, HALF, HALF)
    assert allowed(constraint) == {LINE}


@pytest.mark.parametrize("before", [(), (LINE,)])
def test_the_model_begins_a_thought_itself(before: tuple[int, ...]) -> None:
    constraint = ReasoningConstraint(TOKENS, is_open=False, budget=1)
    feed(constraint, *before, BEGIN, HM)
    assert allowed(constraint) == {LINE}


def test_no_thought_has_no_budget() -> None:
    constraint = ReasoningConstraint(TOKENS, is_open=False, budget=0)
    feed(constraint, HM, BEGIN, HM)
    assert allowed(constraint) is None


def test_an_end_in_time_is_the_models_own() -> None:
    constraint = ReasoningConstraint(TOKENS, is_open=True, budget=5)
    feed(constraint, HM, END, *[HM] * 9)
    assert allowed(constraint) is None


def test_an_empty_budget_closes_at_once() -> None:
    constraint = ReasoningConstraint(TOKENS, is_open=True, budget=0)
    assert allowed(constraint) == {LINE}


def test_the_grammar_begins_behind_the_thought() -> None:
    inner = Braces()
    constraint = ReasoningConstraint(TOKENS, is_open=False, budget=None, inner=inner)
    assert allowed(constraint) == {OPEN, BEGIN}
    feed(constraint, BEGIN, HM, END)
    assert constraint.forced() == [OPEN]
    feed(constraint, OPEN, CLOSE, EOS)
    assert inner.taken == [OPEN, CLOSE, EOS]
    assert constraint.decides_end


def test_the_grammar_begins_without_a_thought() -> None:
    constraint = ReasoningConstraint(TOKENS, is_open=False, inner=Braces())
    feed(constraint, OPEN)
    assert allowed(constraint) == {CLOSE}


CHANNELS = ReasoningTokens((LINE, HM, BEGIN), (LINE, REST, BEGIN), b"</think>", (END,), len(VOCABULARY), TOKENS.spell)


def test_markers_of_several_tokens_begin_a_thought_or_the_answer() -> None:
    for second, then in ((HM, (HM, END)), (REST, ())):
        inner = Braces()
        constraint = ReasoningConstraint(CHANNELS, is_open=False, inner=inner)
        assert allowed(constraint) == {OPEN, LINE}
        feed(constraint, LINE)
        assert allowed(constraint) == {HM, REST}
        feed(constraint, second, BEGIN, *then, OPEN, CLOSE, EOS)
        assert inner.taken == [OPEN, CLOSE, EOS]


def test_a_budget_counts_behind_a_marker_of_several_tokens() -> None:
    constraint = ReasoningConstraint(CHANNELS, is_open=False, budget=1)
    feed(constraint, LINE, HM, BEGIN, HM)
    assert constraint.forced() == [END]


def test_a_marker_that_does_not_go_on_was_none() -> None:
    constraint = ReasoningConstraint(CHANNELS, is_open=False, budget=0)
    feed(constraint, LINE, CLOSE, LINE, HM, BEGIN, HM)
    assert allowed(constraint) is None
