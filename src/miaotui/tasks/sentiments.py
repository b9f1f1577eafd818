"""Sentiment of texts: positive, negative or neutral, and the words that carry it.

Owns the phrases that stand for each sentiment where there are no examples, the band of neutral texts, the words of a
text and the effect of each. Knows encoders by `Classifier`. Invariant: a word's effect is the change of the label's
log-odds when that word alone is left out, so that it holds for any head and any pooling (Li, Monroe and Jurafsky 2016,
arXiv:1612.08220).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from miaotui.encoder import Encoder
from miaotui.errors import FieldError
from miaotui.libraries import need
from miaotui.tasks.calibration import Doubles
from miaotui.tasks.classification import Classifier, labelled
from miaotui.tasks.heads.head import ClassifierHead
from miaotui.tasks.result import Sentiment, WordEffect
from miaotui.tasks.vectors import embed_texts, listed

POSITIVE, NEGATIVE, NEUTRAL = "positive", "negative", "neutral"
NEUTRAL_BELOW = 0.55  # probability of the likelier of two sentiments under which a text is neutral
MAX_WORDS = 64  # of a text whose effects are measured: each is a text to compute

SENTIMENT_PHRASES: Mapping[str, Sequence[str]] = {
    POSITIVE: (
        "This is wonderful, I love it.",
        "An excellent, enjoyable and moving experience.",
        "Great quality, very good, highly recommended.",
        "I am happy and satisfied with this.",
        "funny, charming, brilliant and beautiful",
        "非常好，我很喜欢，强烈推荐。",
        "服务热情，环境干净，很满意。",
        "质量不错，下次还会再来。",
    ),
    NEGATIVE: (
        "This is terrible, I hate it.",
        "A boring, disappointing and annoying experience.",
        "Bad quality, very poor, not recommended.",
        "I am angry and unhappy with this.",
        "dull, stupid, awful and ugly",
        "非常差，我很失望，不推荐。",
        "服务态度恶劣，环境脏乱，很不满意。",
        "质量太差，再也不会来了。",
    ),
}
_RUN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]+|[^\W_]+(?:['’\-][^\W_]+)*")


class PlacedWord(NamedTuple):
    """A word, ``text[start:end]``."""

    text: str
    start: int
    end: int


class SentimentClassifier(Classifier):
    """A classifier whose labels are sentiments: `fit` with examples, or `untrained`."""

    @classmethod
    def untrained(cls, encoder: Encoder) -> SentimentClassifier:
        """Make one without examples: texts are compared with phrases of praise and of complaint."""
        return cls.from_names(encoder, SENTIMENT_PHRASES)

    def sentiments(
        self,
        texts: str | Iterable[str],
        *,
        neutral_below: float | None = None,
        words: int = 0,
        first: int = 0,
        deadline_ms: float | None = None,
    ) -> list[Sentiment]:
        """Return the sentiment of each text.

        Where the head has no label ``neutral``, a text is neutral whose likelier sentiment has a probability below
        ``neutral_below`` (None: 0.55). ``words`` is how many words that carry the sentiment are given with each; the
        effects of a text's first 64 words are measured, which takes as long as so many texts.
        """
        given = listed(texts)
        below = NEUTRAL_BELOW if neutral_below is None else neutral_below
        if not 0.0 <= below <= 1.0:
            raise FieldError("neutral_below", f"must be from 0 to 1, not {below!r}")
        head = self.head
        read = embed_texts(self.encoder, given, prompt=head.prompt, first=first, deadline_ms=deadline_ms)
        found = [within_band(each, below) for each in labelled(head, read, Sentiment, first=first)]
        if not words:
            return found
        return [
            each if each.error else replace(each, words=self._carriers(text, each, words))
            for text, each in zip(given, found, strict=True)
        ]

    def _carriers(self, text: str, found: Sentiment, count: int) -> tuple[WordEffect, ...]:
        """Return the words that raise or lower the likelier label's log-odds most."""
        cut = placed_words(text)[:MAX_WORDS]
        if not cut or found.best is None:
            return ()
        effects = word_effects(self.encoder, self.head, text, cut, found.best)
        return tuple(sorted(effects, key=lambda each: (-abs(each.effect), each.start))[:count])


def word_effects(
    encoder: Encoder, head: ClassifierHead, text: str, words: Sequence[PlacedWord], label: str
) -> list[WordEffect]:
    """Return by how much each word raises the log-odds of ``label``: with the whole text against without the word."""
    without = [text[: word.start] + text[word.end :] for word in words]
    read = embed_texts(encoder, [text, *without], prompt=head.prompt)
    odds = log_odds(head.probabilities(read.values), head.labels.index(label))
    return [
        WordEffect(word.text, word.start, word.end, 0.0 if error else float(odds[0] - odds[place]))
        for place, (word, error) in enumerate(zip(words, read.errors[1:], strict=True), 1)
    ]


def log_odds(rows: Doubles, place: int) -> Doubles:
    """Return the log-odds ``[n]`` of one label under probabilities ``[n, labels]``."""
    own = np.clip(rows[:, place], 1e-12, 1 - 1e-12)
    return np.asarray(np.log(own) - np.log1p(-own))


def within_band(found: Sentiment, below: float) -> Sentiment:
    """Return the sentiment, neutral where the likelier of two is not likely enough."""
    if found.error is not None or NEUTRAL in found.scores or found.probability >= below:
        return found
    return replace(found, label=NEUTRAL)


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
