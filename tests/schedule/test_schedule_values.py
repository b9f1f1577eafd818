"""The small pure parts: limits, sharing of rows, acceptance, plans."""

from __future__ import annotations

import pytest

from miaotui.errors import EngineError, PromptTooLongError, RequestError
from miaotui.schedule import Chunk, Plan, ScheduleConfig
from miaotui.schedule.pages import PagePool, PrefixTree
from miaotui.schedule.sequence import SequenceState, share_rows

ROOT = PrefixTree(PagePool(1)).root


def decoding(sequence: int, missing: int) -> SequenceState:
    return SequenceState(sequence, [7] * 10, 10 + missing, 0, sequence, ROOT, computed=9)


def test_a_plan_counts_its_rows_and_cannot_be_changed():
    chunk = Chunk(1, 0, (5, 6), (0,), 1)
    plan = Plan((chunk, Chunk(2, 4, (9,), (3,), 1)))
    assert plan.n_rows == 3
    assert Plan(()).n_rows == 0
    with pytest.raises(AttributeError):
        chunk.start = 3


@pytest.mark.parametrize("name", ["n_pages", "context", "max_rows", "max_sequences", "chunk_size"])
def test_limits_below_one_are_refused_by_name(name):
    with pytest.raises(RequestError, match=f"{name} must be at least 1, not 0"):
        ScheduleConfig(**{"n_pages": 4, "context": 64, name: 0})


def test_every_sequence_needs_a_row():
    with pytest.raises(RequestError, match=r"max_rows \(3\) .* max_sequences \(4\)"):
        ScheduleConfig(n_pages=4, context=64, max_rows=3, max_sequences=4)


def test_what_fits_and_what_does_not():
    config = ScheduleConfig(n_pages=4, context=100)
    config.require_fitting(60, 5)  # 64 positions: the last token is not fed back
    ScheduleConfig(n_pages=9, context=100).require_fitting(60, 40)
    with pytest.raises(PromptTooLongError, match=r"need 5 KV pages of 16 tokens, .* only 4"):
        config.require_fitting(60, 6)
    with pytest.raises(PromptTooLongError, match=r"60 tokens .* up to 41 exceed .* 100 tokens"):
        config.require_fitting(60, 41)
    with pytest.raises(RequestError, match="no tokens"):
        config.require_fitting(0, 1)
    with pytest.raises(RequestError, match="max_tokens must be at least 1, not 0"):
        config.require_fitting(1, 0)


def test_drafts_are_cut_to_rows_and_length():
    states = [decoding(0, missing=9), decoding(1, missing=2), decoding(2, missing=9)]
    drafts = {0: [1, 2, 3], 1: [4, 5, 6], 2: [7, 8, 9], 5: [1]}
    assert share_rows(states, drafts, 100, False) == {0: [1, 2, 3], 1: [4], 2: [7, 8, 9]}
    assert share_rows(states, drafts, 5, False) == {0: [1, 2, 3], 1: [4], 2: [7]}
    assert share_rows(states, drafts, 4, False) == {0: [1, 2, 3], 1: [4]}
    assert share_rows(states, drafts, 5, True) == {0: [1, 2]}
    assert share_rows(states, {}, 5, True) == {}


def test_tokens_must_fit_the_chunk_they_came_from():
    silent = Chunk(1, 0, (5, 6), (0,), 0)
    single = Chunk(1, 0, (5, 6), (0,), 1)
    drafted = Chunk(1, 4, (5, 6, 7), (0,), 3)
    assert list(silent.accepted({})) == []
    assert single.accepted({1: [8]}) == [8]
    assert drafted.accepted({1: [8]}) == [8]
    assert drafted.accepted({1: (6, 7, 8)}) == (6, 7, 8)


@pytest.mark.parametrize(
    ("n_logits", "tokens", "message"),
    [
        (0, [8], "got 1 new tokens .* expected no"),
        (1, [], "got 0 new tokens .* expected 1 to 1"),
        (3, [6, 7, 8, 9], "got 4 new tokens .* expected 1 to 3"),
        (3, [7, 7, 8], r"accepted tokens \[7, 7, 8\] against the draft \[6, 7\]"),
        (3, [7, 8], r"accepted tokens \[7, 8\] against the draft \[6, 7\]"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(n_logits, tokens, message):
    with pytest.raises(EngineError, match=message):
        Chunk(1, 4, (5, 6, 7), (0,), n_logits).accepted({1: tokens})
