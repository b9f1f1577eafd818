"""Words have the times at which the decoder looked at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from miaotui.speech.words import TimedWord, _joined, _shortened, spoken_words, token_starts

Floats = NDArray[np.float32]


def plain_starts(weights: Floats) -> list[int]:
    """Dynamic time warping cell by cell."""
    tokens, rows = weights.shape
    cost = np.full((tokens + 1, rows + 1), np.inf)
    cost[0, 0] = 0
    for i in range(1, tokens + 1):
        for j in range(1, rows + 1):
            cost[i, j] = min(cost[i - 1, j - 1], cost[i - 1, j], cost[i, j - 1]) - weights[i - 1, j - 1]
    starts, i, j = [0] * tokens, tokens, rows
    while i and j:
        starts[i - 1] = j - 1
        before = [(cost[i, j - 1], i, j - 1), (cost[i - 1, j], i - 1, j), (cost[i - 1, j - 1], i - 1, j - 1)]
        _, i, j = min(before, key=lambda each: each[0])
    return starts


@given(st.integers(1, 7), st.integers(1, 20), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_starts_are_those_of_the_textbook(tokens: int, rows: int, seed: int) -> None:
    weights = np.random.default_rng(seed).standard_normal((tokens, rows)).astype(np.float32)
    found = token_starts(weights)
    assert found.tolist() == plain_starts(weights)
    assert (np.diff(found) >= 0).all()


def test_tokens_that_are_looked_for_in_turn_begin_there() -> None:
    weights = np.full((3, 30), -0.1, np.float32)
    for token, (first, last) in enumerate(((0, 12), (12, 20), (20, 30))):
        weights[token, first:last] = 1
    assert token_starts(weights).tolist() == [0, 12, 20]


@dataclass(frozen=True)
class Span:
    text: str
    start_s: float
    end_s: float


def timed(*spans: Span) -> list[TimedWord]:
    return [TimedWord(span.text, 1, span.start_s, span.end_s, 0.5) for span in spans]


def test_punctuation_belongs_to_its_word() -> None:
    words = timed(
        Span(' "', 0.0, 0.1), Span("Yes", 0.1, 0.4), Span(",", 0.4, 0.5), Span(" no", 0.5, 0.8), Span(".", 0.8, 1)
    )
    found = _joined(words)
    assert [word.text for word in found] == [' "Yes,', " no."]
    assert [word.n_tokens for word in found] == [3, 2]


def test_a_full_stop_does_not_last_as_long_as_the_pause_behind_it() -> None:
    words = timed(
        *(Span(f" w{i}", 0.3 * i, 0.3 * i + 0.3) for i in range(6)), Span(".", 1.8, 5.0), Span(" a", 5.0, 8.0)
    )
    found = _shortened(words)
    assert found[6].end_s == pytest.approx(2.4)
    assert found[7].start_s == pytest.approx(7.4)


def test_words_are_shared_out_over_segments() -> None:
    words = timed(Span(" a", 3.0, 6.0), Span(" b", 6.0, 6.3), Span(" c", 6.3, 6.6), Span(" d", 7.0, 7.3))
    first, second, third = spoken_words(words, [2, 0, 2], 10.0, 9.0)
    assert [word.word for word in first] == [" a", " b"]
    assert second == ()
    assert [word.start_s for word in third] == [16.3, 17.0]
    assert first[0].start_s == pytest.approx(15.4)  # not the whole pause before it
