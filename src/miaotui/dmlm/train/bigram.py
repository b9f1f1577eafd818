"""A bigram model of the same texts: what a trained model must at least beat.

Owns counts of pairs of tokens, smoothed by interpolated Kneser-Ney (Chen and Goodman, "An Empirical Study of Smoothing
Techniques", 1999, section 3.2). Knows no network. Invariant: it is counted on the texts that are trained on and judged
on those that are held out, with the tokenizer of the run, so that its figure and a held-out bound compare.
"""

from __future__ import annotations

import numpy as np

from miaotui.dmlm.train.texts import SPECIALS, TextCorpus
from miaotui.training.noise import Floats, Ints

DISCOUNT = 0.75  # of each count
UNSEEN = 0.5  # added to the number of different tokens before each one, so that none has chance 0


def bigram_nats(corpus: TextCorpus) -> float:
    """Return the negative log-likelihood of the held-out texts, nats a token; the first token of a text is given.

    Special tokens do not count, as in a bound.
    """
    held = corpus.tokens[corpus.held_out]
    before, after = held[:, :-1].ravel(), held[:, 1:].ravel()
    chances = bigram_chances(corpus.tokens[corpus.trained], before, after, corpus.vocab_size)
    return float(-np.log(chances[after >= len(SPECIALS)]).mean())


def bigram_chances(texts: Ints, before: Ints, after: Ints, size: int) -> Floats:
    """Return the chance of each token of ``after [m]`` behind that of ``before [m]``.

    ``texts [n, length]`` are counted; token ids are less than ``size``. A token that begins no pair is followed as
    tokens are on the whole.
    """
    keys, counts = np.unique(texts[:, :-1].ravel() * size + texts[:, 1:].ravel(), return_counts=True)
    first, second = keys // size, keys % size
    follows = np.bincount(first, counts, size)  # occurrences of a token before another
    kinds = np.bincount(first, minlength=size)  # different tokens after it
    continuation = (np.bincount(second, minlength=size) + UNSEEN) / (len(keys) + UNSEEN * size)
    wanted = before * size + after
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    seen = np.where(keys[at] == wanted, counts[at], 0)
    known = np.maximum(follows[before], 1)
    kept = np.maximum(seen - DISCOUNT, 0) / known
    chances: Floats = np.where(
        follows[before] > 0, kept + DISCOUNT * kinds[before] / known * continuation[after], continuation[after]
    )
    return chances
