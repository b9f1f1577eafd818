"""The suffix index against a search of every place, with few and many different tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.kernels.draft.suffix_fields import BRANCHES, ENOUGH, MAX_MATCH, MAX_TOKENS, WALK
from miaotui.kernels.runtime import compiled
from miaotui.speculation.drafters.suffix import KERNELS, LEAST_CAPACITY, SuffixIndex


@pytest.fixture(autouse=True, scope="module")
def _kernels() -> None:
    compiled.prepare(KERNELS)  # compiling takes longer than an example may


def longest_match(tokens: Sequence[int]) -> int:
    """The most tokens before any place but the end that equal the last ones."""
    end, best = len(tokens), 0
    for place in range(1, end):
        length = 0
        while length < min(place, MAX_MATCH) and (tokens[place - 1 - length] == tokens[end - 1 - length]):
            length += 1
        best = max(best, length)
    return best


def occurs(part: Sequence[int], whole: Sequence[int]) -> bool:
    size = len(part)
    return any(list(whole[i : i + size]) == list(part) for i in range(len(whole) - size + 1))


texts = st.integers(1, 30).flatmap(lambda top: st.lists(st.integers(0, top), max_size=60))


@given(texts)
def test_it_finds_the_longest_match_of_a_short_text(tokens: list[int]) -> None:
    index = SuffixIndex(LEAST_CAPACITY)
    index.extend(tokens)
    matches = index.find(index)
    rare = not tokens or tokens.count(tokens[-1]) <= WALK
    expected = longest_match(tokens)
    assert (matches[0].length if matches else 0) == expected or not rare
    assert [match.length for match in matches] == sorted((match.length for match in matches), reverse=True)


@given(st.lists(st.integers(-1, 3), max_size=400), st.lists(st.integers(0, 3), max_size=20))
def test_a_branch_did_follow_what_it_matched(stored: list[int], text: list[int]) -> None:
    index, reader = SuffixIndex(LEAST_CAPACITY), SuffixIndex(LEAST_CAPACITY)
    index.extend(stored)  # -1 separates texts
    reader.extend(text)
    kept = stored[-LEAST_CAPACITY:]
    matches = index.find(reader)
    assert len(matches) <= BRANCHES
    assert len({match.tokens[0] for match in matches}) == len(matches)
    for match in matches:
        assert 1 <= match.length <= min(len(text), MAX_MATCH)
        assert 1 <= len(match.tokens) <= MAX_TOKENS
        assert match.agreeing >= 1
        part = text[len(text) - match.length :] + match.tokens
        assert -1 not in part
        assert occurs(part, kept)


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 4), max_size=9), max_size=30))
def test_tokens_one_by_one_or_together_are_the_same(pieces: list[list[int]]) -> None:
    whole, parts = SuffixIndex(100), SuffixIndex(100)
    whole.extend([token for piece in pieces for token in piece])
    for piece in pieces:
        parts.extend(piece)
    assert whole.find(whole) == parts.find(parts)
    assert whole.size == parts.size == sum(map(len, pieces))


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 3), max_size=120),
    st.lists(st.integers(0, 3), max_size=30),
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
    st.integers(20, 200),
)
def test_what_would_follow_if_some_tokens_came(
    stored: list[int], text: list[int], after: list[int], capacity: int
) -> None:
    """The same as if they had come; and they leave no trace, full ring or not."""
    store, reader, further = SuffixIndex(1000), SuffixIndex(capacity), SuffixIndex(capacity)
    store.extend(stored)
    reader.extend(text)
    further.extend([*text, *after])
    before = reader.find(reader), reader.size
    assert store.find(reader, after=after) == store.find(further)
    assert (reader.find(reader), reader.size) == before


def test_of_equal_matches_the_latest_is_followed_and_all_are_counted() -> None:
    index = SuffixIndex(100)
    index.extend([7, 1, 50, 8, 1, 50, 9, 1, 60, 5, 1])
    first, second = index.find(index)
    assert (first.length, first.agreeing, first.tokens[0]) == (1, 1, 60)
    assert (second.length, second.agreeing, second.tokens[:2]) == (1, 2, [50, 9])


def test_texts_are_kept_apart() -> None:
    index = SuffixIndex(100)
    index.extend([1, 2, 3])
    index.end_text()
    index.extend([4, 5, 3])
    index.end_text()
    reader = SuffixIndex(100)
    reader.extend([5, 3])
    assert index.find(reader) == []  # nothing follows either 3


def test_the_oldest_tokens_are_forgotten() -> None:
    index, reader = SuffixIndex(LEAST_CAPACITY), SuffixIndex(LEAST_CAPACITY)
    index.extend([100, 101, 102])
    reader.extend([100, 101])
    assert index.find(reader)[0].tokens == [102]
    index.extend(range(LEAST_CAPACITY))
    assert index.find(reader) == []
    assert index.size == LEAST_CAPACITY + 3


def test_long_matches_and_continuations_have_their_bounds() -> None:
    period = list(range(40))
    index = SuffixIndex(1000)
    index.extend(period * 10)
    (match,) = index.find(index)
    assert match.length == MAX_MATCH > ENOUGH
    assert match.tokens == period[:MAX_TOKENS]


@pytest.mark.parametrize("capacity", [1, 64, 65, 1000])
def test_memory_is_in_proportion(capacity: int) -> None:
    index = SuffixIndex(capacity)
    assert index.size_bytes <= 60 * max(capacity, LEAST_CAPACITY) + 100
    index.extend(np.arange(3 * capacity, dtype=np.int64))
    assert index.find(index) == []
