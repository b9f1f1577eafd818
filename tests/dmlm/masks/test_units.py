"""Words and collocations of texts, English and Chinese, and the tokens that belong to them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from miaotui.dmlm.masks.collocations import Collocations, find_collocations
from miaotui.dmlm.masks.words import unit_numbers, word_spans
from miaotui.errors import RequestError


def words_of(text: str) -> list[str]:
    return [text[start:end] for start, end in word_spans(text)]


def test_english_words() -> None:
    assert words_of("Don't stop: the well-known U.S. paid 3.5 times.") == [
        "Don't", "stop", ":", "the", "well-known", "U.S", ".", "paid", "3.5", "times", ".",
    ]  # fmt: skip


def test_chinese_words_follow_the_dictionary() -> None:
    assert words_of("我们在北京大学学习。") == ["我们", "在", "北京大学", "学习", "。"]
    assert words_of("用Python写代码") == ["用", "Python", "写", "代码"]


def test_every_letter_is_in_one_word() -> None:
    text = "机器学习 is fun, 不是吗? naïve café Ⅷ 𠮷野家"
    spans = word_spans(text)
    covered = [at for start, end in spans for at in range(start, end)]
    assert covered == sorted(set(covered))
    assert "".join(text[at] for at in covered) == "".join(text.split())


def test_tokens_of_one_word_are_one_unit() -> None:
    # "un|believ|able | cats" with the blank at the beginning of the next token, and one alone
    offsets = [(0, 2), (2, 8), (8, 12), (12, 17), (17, 18), (18, 19)]
    units = unit_numbers(offsets, word_spans("unbelievable cats  "))
    assert units.tolist() == [1, 1, 1, 2, 3, 4]


def test_token_that_touches_two_words_joins_them() -> None:
    assert unit_numbers([(0, 3), (3, 6), (6, 9)], [(0, 4), (4, 9)]).tolist() == [1, 1, 1]


def test_bytes_of_one_character_are_one_unit() -> None:
    assert unit_numbers([(0, 1), (0, 1), (0, 1), (1, 2)], [(0, 1), (1, 2)]).tolist() == [1, 1, 1, 2]


def corpus() -> list[list[str]]:
    random = np.random.default_rng(0)
    texts = []
    for _ in range(400):
        words = [f"w{number}" for number in random.zipf(1.5, 30) if number < 200]
        for phrase, chance in ((["New", "York"], 0.4), (["hidden", "markov", "model"], 0.3)):
            if random.random() < chance:
                at = int(random.integers(0, len(words) + 1))
                words[at:at] = phrase
        texts.append(words)
    return texts


def test_collocations_are_found_and_what_contains_them_by_chance_is_not() -> None:
    found = find_collocations(corpus(), share=0.2)
    assert ("new", "york") in found.ngrams
    assert ("hidden", "markov", "model") in found.ngrams
    assert ("w1", "w1") not in found.ngrams
    assert not {ngram for ngram in found.ngrams if len(ngram) == 3 and {"new", "york"} <= set(ngram)}


def test_scores_equal_those_of_a_plain_count() -> None:
    """PMI of two words, counted here with a dictionary."""
    from miaotui.dmlm.masks.collocations import count_ngrams, scores_of  # noqa: PLC0415

    words = np.random.default_rng(2).integers(0, 6, 3000)
    counts = count_ngrams(words, 6, 10)
    scores = scores_of(counts, 3000)
    pairs = list(zip(words[:-1].tolist(), words[1:].tolist(), strict=True))
    for pair in {(0, 1), (3, 3)}:
        joint = pairs.count(pair) / 3000
        apart = np.mean(words == pair[0]) * np.mean(words == pair[1])
        assert scores[pair] == pytest.approx(np.log(joint / apart))
    triples = [tuple(words[at : at + 3].tolist()) for at in range(2998)]
    triple = max(set(triples), key=triples.count)
    log = {ngram: np.log(count / 3000) for ngram, count in counts.items()}
    assert counts[triple] == triples.count(triple)
    cuts = [log[triple[:1]] + log[triple[1:]], log[triple[:2]] + log[triple[2:]], sum(log[(word,)] for word in triple)]
    assert scores[triple] == pytest.approx(log[triple] - max(cuts))


def test_longest_collocation_is_joined_first() -> None:
    text = "the New York Times in New York"
    known = Collocations(frozenset({("new", "york"), ("new", "york", "times")}))
    merged = known.merged(text, word_spans(text))
    assert [text[start:end] for start, end in merged] == ["the", "New York Times", "in", "New York"]


class CountedNgrams(frozenset[tuple[str, ...]]):
    """Set that counts how often all of it is walked through."""

    walks = 0

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        type(self).walks += 1
        return super().__iter__()


def test_ngrams_are_walked_through_once_and_not_for_each_word() -> None:
    text = "the New York Times in New York " * 30
    known = Collocations(CountedNgrams({("new", "york"), ("new", "york", "times")}))
    assert len(known.merged(text, word_spans(text))) == 30 * 4
    assert CountedNgrams.walks <= 1


def test_too_large_a_corpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miaotui.dmlm.masks.collocations.MOST_WORDS", 10)
    with pytest.raises(RequestError, match="sample"):
        find_collocations([["word"] * 12])


def test_no_text_has_no_collocations() -> None:
    assert find_collocations([]).longest == 1
