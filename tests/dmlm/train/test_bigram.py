"""The bigram model: chances that add up, and those of a count by hand."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from miaotui.dmlm.train.bigram import DISCOUNT, UNSEEN, bigram_chances, bigram_nats
from miaotui.dmlm.train.texts import read_corpus
from training_texts import write_texts

SIZE = 12


def test_chances_are_those_of_a_count_pair_by_pair() -> None:
    random = np.random.default_rng(3)
    texts = random.integers(0, SIZE - 1, (20, 9)) ** 2 % SIZE  # token 11 follows no other
    pairs = Counter((int(a), int(b)) for text in texts for a, b in itertools.pairwise(text))

    def chance(a: int, b: int) -> float:
        total = sum(count for (first, _), count in pairs.items() if first == a)
        kinds = sum(first == a for first, _ in pairs)
        general = (sum(second == b for _, second in pairs) + UNSEEN) / (len(pairs) + UNSEEN * SIZE)
        if not total:
            return general
        return max(pairs[a, b] - DISCOUNT, 0) / total + DISCOUNT * kinds / total * general

    before, after = (each.ravel() for each in np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"))
    found = bigram_chances(texts, before, after, SIZE)
    assert found == pytest.approx([chance(int(a), int(b)) for a, b in zip(before, after, strict=True)])
    assert found.reshape(SIZE, SIZE).sum(axis=1) == pytest.approx(np.ones(SIZE))


def test_held_out_texts_of_a_grammar_cost_less_than_uniform_ones(tmp_path: Path) -> None:
    corpus = read_corpus([write_texts(tmp_path)], 300, 32)
    assert 0 < bigram_nats(corpus) < np.log(corpus.vocab_size) / 2
