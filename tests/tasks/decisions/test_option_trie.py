"""The tree of options' tokens, against the whole distribution of a small language."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.tasks.decisions.option_trie import OptionTrie, Tokens, log_sum

END = 9


def row(prefix: Tokens) -> Any:
    """Log-probabilities of ten tokens after a prefix, of a language made up for these tests."""
    logits = np.random.default_rng([1, *prefix]).standard_normal(10)
    return logits - np.log(np.exp(logits).sum())


def read(trie: OptionTrie) -> dict[Tokens, list[float]]:
    return {prefix: [float(row(prefix)[token]) for token in tokens] for prefix, tokens in trie.branches.items()}


def test_different_first_tokens_need_one_reading() -> None:
    trie = OptionTrie([(1, 2), (3,), (4, 4, 4)], END)
    assert dict(trie.branches) == {(): [1, 3, 4]}
    found = trie.log_probabilities(read(trie))
    first = [float(row(())[token]) for token in (1, 3, 4)]
    assert found == pytest.approx([each - log_sum(first) for each in first])
    assert trie.mass(read(trie)) == pytest.approx(sum(math.exp(each) for each in first))


def test_an_option_that_begins_another_ends_with_the_end_token() -> None:
    trie = OptionTrie([(1,), (1, 2)], END)
    assert dict(trie.branches) == {(1,): [2, END]}
    assert trie.mass(read(trie)) == 1.0  # nothing to choose at the beginning
    assert sum(math.exp(each) for each in trie.log_probabilities(read(trie))) == pytest.approx(1.0)


options = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), min_size=2, max_size=8, unique=True)


@given(options=options)
def test_probabilities_sum_to_one_and_are_those_of_bound_sampling(options: list[Tokens]) -> None:
    trie = OptionTrie(options, END)
    found = trie.log_probabilities(read(trie))
    assert sum(math.exp(each) for each in found) == pytest.approx(1.0)
    ended = [(*option, END) for option in options]
    for option, each in zip(ended, found, strict=True):
        log = 0.0
        for place, token in enumerate(option):
            allowed = {other[place] for other in ended if other[:place] == option[:place]}
            log += row(option[:place])[token] - log_sum([row(option[:place])[token] for token in sorted(allowed)])
        assert each == pytest.approx(log)


@given(options=options, order=st.randoms())
def test_the_order_of_options_changes_nothing(options: list[Tokens], order: Any) -> None:
    shuffled = list(options)
    order.shuffle(shuffled)
    one, other = OptionTrie(options, END), OptionTrie(shuffled, END)
    by_option = dict(zip(shuffled, other.log_probabilities(read(other)), strict=True))
    assert [by_option[each] for each in options] == one.log_probabilities(read(one))
