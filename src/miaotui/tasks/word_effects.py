"""Words that carry a label: how much each word of a text raises or lowers it, by leaving the word out (occlusion).

Owns the words of a text and the effect of each. Knows heads and encoders by their public calls. Invariant: a word's
effect is the change of the label's log-odds when that word alone is left out, so that it holds for any head and any
pooling (Li, Monroe and Jurafsky 2016, arXiv:1612.08220).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np

from miaotui.encoder import Encoder
from miaotui.libraries import need
from miaotui.tasks.calibration import Doubles
from miaotui.tasks.heads.head import ClassifierHead
from miaotui.tasks.result import TaskResult, WordEffect
from miaotui.tasks.vectors import TextVectors, embed_texts

Labelled = TypeVar("Labelled", bound=TaskResult)

MAX_WORDS = 64  # of a text whose effects are measured: each is a text to compute
_RUN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]+|[^\W_]+(?:['’\-][^\W_]+)*")


class PlacedWord(NamedTuple):
    """A word, ``text[start:end]``."""

    text: str
    start: int
    end: int


def with_words(
    encoder: Encoder, head: ClassifierHead, texts: Sequence[str], found: Sequence[Labelled], count: int
) -> list[Labelled]:
    """Return results with the ``count`` words of each text that raise or lower its likeliest label's log-odds most."""
    return [
        each if each.error else replace(each, words=strongest(word_effects_of(encoder, head, text, each), count))
        for text, each in zip(texts, found, strict=True)
    ]


def word_effects_of(encoder: Encoder, head: ClassifierHead, text: str, found: TaskResult) -> list[WordEffect]:
    """Return the effects of a text's first `MAX_WORDS` words on its likeliest label; none without words."""
    cut = placed_words(text)[:MAX_WORDS]
    return word_effects(encoder, head, text, cut, found.best) if cut and found.best is not None else []


def strongest(effects: Sequence[WordEffect], count: int) -> tuple[WordEffect, ...]:
    """Return the words with the largest effects of either sign, the largest first."""
    return tuple(sorted(effects, key=lambda each: (-abs(each.effect), each.start))[:count])


def word_effects(
    encoder: Encoder, head: ClassifierHead, text: str, words: Sequence[PlacedWord], label: str
) -> list[WordEffect]:
    """Return by how much each word raises the log-odds of ``label``: with the whole text against without the word."""
    read = embed_texts(encoder, [text, *texts_without(text, words)], prompt=head.prompt)
    return effects_of(head, read, words, label)


def texts_without(text: str, words: Sequence[PlacedWord]) -> list[str]:
    """Return the text once for each word, without it."""
    return [text[: word.start] + text[word.end :] for word in words]


def effects_of(head: ClassifierHead, read: TextVectors, words: Sequence[PlacedWord], label: str) -> list[WordEffect]:
    """Return the effects of words, from the vectors of the whole text and then of `texts_without`."""
    odds = log_odds(head.probabilities(read.values), head.labels.index(label))
    return [
        WordEffect(word.text, word.start, word.end, 0.0 if error else float(odds[0] - odds[place]))
        for place, (word, error) in enumerate(zip(words, read.errors[1:], strict=True), 1)
    ]


def log_odds(rows: Doubles, place: int) -> Doubles:
    """Return the log-odds ``[n]`` of one label under probabilities ``[n, labels]``."""
    own = np.clip(rows[:, place], 1e-12, 1 - 1e-12)
    return np.asarray(np.log(own) - np.log1p(-own))


def placed_words(text: str) -> list[PlacedWord]:
    """Return the words of a text. Raises `MissingLibraryError` for Chinese without rjieba."""
    found: list[PlacedWord] = []
    for run in _RUN.finditer(text):
        if "\u3400" <= run[0][0] <= "\uffff":
            place = run.start()
            for word in need("rjieba").cut(run[0]):
                found.append(PlacedWord(word, place, place + len(word)))
                place += len(word)
        else:
            found.append(PlacedWord(run[0], run.start(), run.end()))
    return found
