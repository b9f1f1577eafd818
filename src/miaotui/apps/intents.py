"""Intent of a message, learned from examples.

Owns the features and the classifier: a linear support-vector machine over TF-IDF of words and of characters. Knows no
conversation. Invariant: nothing is unpickled; a classifier is trained from its examples when it is made. Needs
scikit-learn (extra ``apps``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from miaotui.apps.segmentation import words
from miaotui.errors import RequestError
from miaotui.libraries import need
from miaotui.retrieval.meaning.languages import is_chinese

MAX_EXAMPLES = 200_000
MAX_CHARS = 2_000


@dataclass(frozen=True)
class Intent:
    """Likeliest intent; ``confidence`` in [0, 1] grows with its lead over the second."""

    name: str
    confidence: float


class IntentClassifier:
    """Classifier trained on ``examples``: texts by intent, at least two intents. Raises `RequestError`."""

    def __init__(self, examples: Mapping[str, Sequence[str]]) -> None:
        texts = [text[:MAX_CHARS] for each in examples.values() for text in each]
        names = [name for name, each in examples.items() for _ in each]
        if len(set(names)) < 2 or len(texts) > MAX_EXAMPLES:
            raise RequestError(f"intents need examples of at least two kinds and at most {MAX_EXAMPLES:,} of all")
        self._model = _pipeline()
        self._model.fit(texts, names)
        self._names: list[str] = list(self._model.classes_)

    def classify(self, text: str) -> Intent:
        """Return the likeliest intent of a message."""
        return self.classify_all([text])[0]

    def classify_all(self, texts: Sequence[str]) -> list[Intent]:
        """Return the likeliest intent of each message."""
        rows = self._model.decision_function([text[:MAX_CHARS] for text in texts])
        if len(self._names) == 2:  # one margin instead of two
            rows = [(-margin, margin) for margin in rows]
        return [self._intent([float(value) for value in row]) for row in rows]

    def _intent(self, margins: list[float]) -> Intent:
        order = sorted(range(len(margins)), key=margins.__getitem__, reverse=True)
        lead = margins[order[0]] - margins[order[1]]
        return Intent(self._names[order[0]], 1 - math.exp(-1.5 * max(0.0, lead)))


def _pipeline() -> Any:
    text = need("sklearn.feature_extraction.text")
    pipeline, svm = need("sklearn.pipeline"), need("sklearn.svm")
    by_words = text.TfidfVectorizer(
        analyzer="word", tokenizer=_words, token_pattern=None, ngram_range=(1, 2), sublinear_tf=True
    )
    by_letters = text.TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    both = pipeline.FeatureUnion([("words", by_words), ("letters", by_letters)])
    return pipeline.Pipeline([("features", both), ("machine", svm.LinearSVC(C=0.5))])


def _words(text: str) -> list[str]:
    if is_chinese(text):
        return [word.text for word in words(text) if not word.is_punctuation]
    return [word for word in text.lower().replace("?", " ").split() if word]
