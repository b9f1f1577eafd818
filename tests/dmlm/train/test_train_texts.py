"""Corpora and recipes: what is held out, which units tokens have, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from miaotui.dmlm.train.recipe import TrainRecipe
from miaotui.dmlm.train.texts import read_corpus
from miaotui.errors import ModelFormatError, RequestError
from training_texts import sentences, write_texts


def test_texts_are_cut_and_some_are_held_out(tmp_path: Path) -> None:
    corpus = read_corpus([write_texts(tmp_path)], 300, 32)
    assert corpus.tokens.shape == corpus.words.shape == corpus.collocations.shape
    assert corpus.tokens.shape[1] == 32
    assert not set(corpus.held_out) & set(corpus.trained)
    assert len(corpus.held_out) + len(corpus.trained) == len(corpus.tokens)
    text = corpus.tokenizer.decode(corpus.tokens[:10].ravel().tolist())
    assert "The " in text
    batch = corpus.batch(np.array([3, 5]))
    assert not batch.maskable[batch.tokens < 3].any()


def test_words_and_collocations_join_the_tokens_of_a_text(tmp_path: Path) -> None:
    corpus = read_corpus([write_texts(tmp_path)], 262, 64)  # hardly any merges: letters are tokens
    row, words, joined = corpus.tokens[1], corpus.words[1], corpus.collocations[1]
    known = {word.strip(".") for sentence in sentences(400) for word in sentence.split()} | {"."}
    for unit in set(words.tolist()) - {0, words[0], words[-1]}:  # those at the ends may be cut
        written = corpus.tokenizer.decode(row[words == unit].tolist()).strip()
        assert written in known | {""}, written
    phrases = {corpus.tokenizer.decode(row[joined == unit].tolist()).strip() for unit in np.unique(joined)}
    assert any(len(phrase.split()) > 1 for phrase in phrases)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"masks": "clever"}, "adaptive"),
        ({"schedule": "square"}, "log-linear"),
        ({"width": 100}, "multiples of 32"),
        ({"block": 24}, "multiple of block"),
        ({"layers": 0}, "layers"),
        ({"length": 100_000}, "length"),
        ({"rate": 2.0}, "learning rate"),
    ],
)
def test_wrong_recipes_are_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        TrainRecipe(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ModelFormatError):
        TrainRecipe.of({"unknown": 1})


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="at least 40 texts"):
        read_corpus([write_texts(tmp_path, lines=10)], 300, 128)
    with pytest.raises(RequestError, match="UTF-8"):
        read_corpus([tmp_path / "missing.txt"], 300, 32)
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="UTF-8"):
        read_corpus([binary], 300, 32)
