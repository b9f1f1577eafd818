"""Likeness of an input to the options of a question, by the embeddings of an encoder.

Owns the phrases that stand for an option, and the scale of likeness. Knows no chat model and no weights of a mixture.
Invariant: likeness does not depend on the order of the options, nor on how far an encoder spreads its embeddings: it
is the cosine with an option, less the mean over the options, in units of the options' distance from each other.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.encoder import Encoder
from miaotui.tasks.decisions.questions import ReadQuestion, spoken
from miaotui.tasks.vectors import embed_texts

Floats = NDArray[np.float32]
LEAST_DISTANCE = 1e-3
MAX_KNOWN_QUESTIONS = 256
OTHER_SCRIPTS = re.compile(r"[\u0370-\u1fff\u2e80-\ud7ff\uf900-\uffdc]")
OptionKey = tuple[str, tuple[str, ...], tuple[str | None, ...]]


def option_phrases(question: ReadQuestion) -> list[str]:
    """Return two phrases for each option, one after the other: it alone, and behind the question."""
    found = []
    for name, about in zip(question.options, question.descriptions, strict=True):
        phrase = spoken(name) if about is None else f"{spoken(name)}: {about}"
        found += [phrase, f"{question.text} {phrase}"]
    return found


def likeness(text: Floats, phrases: Floats) -> list[float]:
    """Return the likeness of a unit vector ``[d]`` to each option, whose unit vectors are ``phrases [2 * options, d]``.

    For two options the difference of their cosines is at most the distance of their vectors: so it is from -1 to 1 for
    any encoder.
    """
    options = phrases.astype(np.float64).reshape(len(phrases) // 2, 2, -1).mean(axis=1)
    centred = options - options.mean(axis=0)
    spread = np.sqrt(2.0 * np.square(centred).sum() / max(len(options) - 1, 1))  # of two options: their distance
    return [float(each) for each in centred @ text.astype(np.float64) / max(float(spread), LEAST_DISTANCE)]


class OptionEncoder:
    """Encoders that compare inputs with options, for any number of threads. They stay the caller's to close.

    ``other`` reads inputs and questions in other scripts than Latin; None: ``encoder`` reads all.
    """

    def __init__(self, encoder: Encoder, other: Encoder | None = None) -> None:
        self.encoder, self.other = encoder, other
        self._known: OrderedDict[tuple[bool, OptionKey], Floats] = OrderedDict()

    def likeness(self, text: str, questions: Mapping[str, ReadQuestion]) -> dict[str, list[float]]:
        """Return the likeness of ``text`` to the options of each question. Raises a `MiaotuiError`."""
        found: dict[str, list[float]] = {}
        vectors: dict[bool, Floats] = {}
        for name, question in questions.items():
            is_other = self.other is not None and OTHER_SCRIPTS.search(text + question.text) is not None
            if is_other not in vectors:
                vectors[is_other] = self._embedded([text], is_other)[0]
            found[name] = likeness(vectors[is_other], self._options(question, is_other))
        return found

    def _options(self, question: ReadQuestion, is_other: bool) -> Floats:
        """Return the vectors of a question's options, computed once."""
        key = is_other, (question.text, question.options, question.descriptions)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._embedded(option_phrases(question), is_other)
            while len(self._known) > MAX_KNOWN_QUESTIONS:
                self._known.popitem(last=False)
        return known

    def _embedded(self, texts: Sequence[str], is_other: bool) -> Floats:
        return embed_texts(self.other if is_other and self.other is not None else self.encoder, texts).values
