"""Sentiment of texts: positive, negative or neutral, and the words that carry it.

Owns the phrases that stand for each sentiment where there are no examples, and the band of neutral texts. Knows
encoders by `Classifier`, and the words of a text by `word_effects`. Invariant: the band changes the label alone, never
a probability.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from miaotui.encoder import Encoder
from miaotui.errors import FieldError
from miaotui.tasks.classification import Classifier, labelled
from miaotui.tasks.result import Sentiment
from miaotui.tasks.vectors import embed_texts, listed
from miaotui.tasks.word_effects import with_words

POSITIVE, NEGATIVE, NEUTRAL = "positive", "negative", "neutral"
NEUTRAL_BELOW = 0.55  # probability of the likelier of two sentiments under which a text is neutral

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
        return with_words(self.encoder, head, given, found, words)


def within_band(found: Sentiment, below: float) -> Sentiment:
    """Return the sentiment, neutral where the likelier of two is not likely enough."""
    if found.error is not None or NEUTRAL in found.scores or found.probability >= below:
        return found
    return replace(found, label=NEUTRAL)
