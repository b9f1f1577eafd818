"""Random texts for masks: special tokens at both ends, padding, and words of one to three tokens."""

from __future__ import annotations

import numpy as np

from miaotui.dmlm.masks.batch import TokenBatch

VOCABULARY, SPECIAL, PADDING, MASK = 200, 1, 0, 2


def texts(count: int = 64, n: int = 96, seed: int = 0) -> TokenBatch:
    random = np.random.default_rng(seed)
    tokens = random.integers(10, VOCABULARY, (count, n))
    lengths = random.integers(n // 2, n + 1, count)
    at = np.arange(n)
    padding = at >= lengths[:, None]
    special = (at == 0) | (at == lengths[:, None] - 1)
    tokens = np.where(padding, PADDING, np.where(special, SPECIAL, tokens))
    words = np.cumsum(random.random((count, n)) < 0.6, axis=1)
    pairs = words // 2
    return TokenBatch(tokens, ~(padding | special), np.arange(count) * 3 + 7, words, pairs)


def rows(batch: TokenBatch, which: slice, width: int | None = None) -> TokenBatch:
    """Return some texts of a batch, cut to a width."""
    assert batch.words is not None
    assert batch.collocations is not None
    return TokenBatch(
        batch.tokens[which, :width],
        batch.maskable[which, :width],
        batch.numbers[which],
        batch.words[which, :width],
        batch.collocations[which, :width],
    )
