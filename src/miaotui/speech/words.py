"""Times of words: where the decoder looks while it writes them.

Owns the way from the cross-attention of a window's text to words with seconds, and their cleaning. Knows no model.
Invariant: words do not overlap and do not go back. Source: openai/whisper, ``timing.py``: the attention of heads that
follow the sound, normalized, smoothed by a median, aligned by dynamic time warping (Sakoe and Chiba, 1978).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from miaotui.engine.speech.window import SpokenAlignment
from miaotui.speech.transcript import SpokenWord
from miaotui.text.speech.tokenizer import SpeechTokenizer
from miaotui.text.speech.tokens import TOKENS_A_SECOND

MEDIAN_WIDTH = 7  # of the smoothing, in rows of 20 ms
LONGEST_USUAL_S = 0.7  # bound of the median word, which bounds words at the ends of sentences
SENTENCE_ENDS = frozenset(".。!！?？")
JOINED_BEFORE = frozenset("\"'“¿([{-")  # punctuation that belongs to the word behind it
JOINED_BEHIND = frozenset("\"'.。,，!！?？:：”)]}、")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TimedWord:
    """A word with its count of tokens; times from the window's start."""

    text: str
    n_tokens: int
    start_s: float
    end_s: float
    probability: float


def timed_words(
    alignment: SpokenAlignment, text: Sequence[int], rows: int, tokenizer: SpeechTokenizer, language: str
) -> list[TimedWord]:
    """Return the words of a window's text tokens.

    ``alignment`` is of the tokens before the text, those of the text, and the end; ``rows`` of it are of the recording.
    """
    if not text or rows < 1:
        return []
    given = alignment.scores.shape[1] - len(text) - 1
    starts = token_starts(_smooth(alignment.scores[:, :, :rows])[given - 1 : -1]) / TOKENS_A_SECOND
    words, place = [], 0
    for written, tokens in tokenizer.words(text, language):
        end = place + len(tokens)
        chance = float(alignment.chances[place:end].mean())
        words.append(TimedWord(written, len(tokens), float(starts[place]), float(starts[end]), chance))
        place = end
    return _joined(_shortened(words))


def spoken_words(
    words: Sequence[TimedWord], counts: Sequence[int], window_s: float, spoken_until_s: float
) -> list[tuple[SpokenWord, ...]]:
    """Share a window's words out over its segments, which have ``counts`` text tokens, at times of the recording.

    A word behind a pause is no longer than two usual ones; ``spoken_until_s`` is where speech ended before.
    """
    usual_s = _usual_s(words)
    found: list[tuple[SpokenWord, ...]] = []
    left = list(words)
    for count in counts:
        taken: list[SpokenWord] = []
        n_taken = 0
        while left and n_taken < count:
            word = left.pop(0)
            n_taken += word.n_tokens
            start_s, end_s = round(window_s + word.start_s, 2), round(window_s + word.end_s, 2)
            taken.append(SpokenWord(word.text, start_s, end_s, word.probability))
        if taken and taken[0].end_s - spoken_until_s > 4 * usual_s:
            least_s = max(spoken_until_s, taken[0].end_s - 2 * usual_s)
            taken[0] = replace(taken[0], start_s=round(max(taken[0].start_s, least_s), 2))
        spoken_until_s = taken[-1].end_s if taken else spoken_until_s
        found.append(tuple(taken))
    return found


def token_starts(weights: Floats) -> NDArray[np.float64]:
    """Return the row at which each token begins, by dynamic time warping over weights ``[tokens, rows]``."""
    tokens, rows = weights.shape
    # cost[i, i + j]: of the best path to token i and row j; a diagonal depends on those before it alone
    cost = np.full((tokens + 1, tokens + rows + 1), np.inf)
    came = np.zeros(cost.shape, np.int8)
    cost[0, 0] = 0.0
    for diagonal in range(2, tokens + rows + 1):
        i = np.arange(max(1, diagonal - rows), min(tokens, diagonal - 1) + 1)
        steps = np.stack([cost[i, diagonal - 1], cost[i - 1, diagonal - 1], cost[i - 1, diagonal - 2]])
        came[i, diagonal] = steps.argmin(axis=0)
        cost[i, diagonal] = steps.min(axis=0) - weights[i - 1, diagonal - i - 1]
    starts = np.zeros(tokens)
    i, j = tokens, rows
    while i > 0 and j > 0:
        starts[i - 1] = j - 1
        step = came[i, i + j]
        i, j = i - (step > 0), j - (step != 1)
    return starts


def _smooth(scores: Floats) -> Floats:
    """Return the mean of the heads' shares, normalized over the tokens and smoothed, ``[tokens, rows]``."""
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    spread = shares.std(axis=1, keepdims=True)
    shares = (shares - shares.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-12)
    half = MEDIAN_WIDTH // 2
    if shares.shape[-1] > half:
        padded = np.pad(shares, ((0, 0), (0, 0), (half, half)), mode="reflect")
        shares = np.median(np.lib.stride_tricks.sliding_window_view(padded, MEDIAN_WIDTH, axis=-1), axis=-1)
    mean: Floats = shares.mean(axis=0)
    return mean


def _usual_s(words: Sequence[TimedWord]) -> float:
    lengths = [word.end_s - word.start_s for word in words if word.end_s > word.start_s]
    return min(LONGEST_USUAL_S, float(np.median(lengths))) if lengths else 0.0


def _shortened(words: list[TimedWord]) -> list[TimedWord]:
    """Bound words at the ends of sentences, which pauses make long."""
    most_s = 2 * _usual_s(words)
    found = list(words)
    for place in range(1, len(found)):
        word = found[place]
        if word.end_s - word.start_s <= most_s:
            continue
        if word.text in SENTENCE_ENDS:
            found[place] = replace(word, end_s=word.start_s + most_s)
        elif found[place - 1].text in SENTENCE_ENDS:
            found[place] = replace(word, start_s=word.end_s - most_s)
    return found


def _joined(words: list[TimedWord]) -> list[TimedWord]:
    """Join punctuation to the words that it belongs to."""
    behind: list[TimedWord] = []
    for word in words:
        if behind and word.text in JOINED_BEHIND and not behind[-1].text.endswith(" "):
            last = behind[-1]
            behind[-1] = replace(last, text=last.text + word.text, n_tokens=last.n_tokens + word.n_tokens)
        else:
            behind.append(word)
    found: list[TimedWord] = []
    for word in reversed(behind):
        if found and word.text.startswith(" ") and word.text.strip() in JOINED_BEFORE:
            first = found[-1]
            joined = replace(first, text=word.text + first.text.lstrip(), n_tokens=first.n_tokens + word.n_tokens)
            found[-1] = joined
        else:
            found.append(word)
    return found[::-1]
