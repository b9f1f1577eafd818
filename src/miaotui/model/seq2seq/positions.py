"""Positions of encoder-decoders: rows added to embeddings, and biases added to scores.

Owns both kinds of sinusoidal table and the decoder's buckets of T5; the encoder's buckets are those of `model.encoder`.
Knows no states. Sources: Vaswani et al., 2017, section 3.5, as Marian and as fairseq (M2M100) compute it; T5 (Raffel et
al., 2020, section 2.1).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from miaotui.model.encoder.positions import t5_buckets
from miaotui.model.seq2seq.config import Seq2SeqConfig

Array = NDArray[np.float32]
Indices = NDArray[np.intp]


def sinusoidal_table(config: Seq2SeqConfig, rows: int) -> Array:
    """Return rows of sines, then cosines, ``[rows, hidden]``; their frequencies fall from 1 to about 1/10,000."""
    half = config.hidden_size // 2
    steps = half if config.position == "sinusoidal" else half - 1
    frequencies = np.exp(np.arange(half) * (-math.log(10_000) / steps))
    angles = np.arange(rows)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def relative_scores(config: Seq2SeqConfig, table: Array, queries: Indices, keys: int, *, causal: bool) -> Array:
    """Return what T5 adds to the scores, ``[heads, queries, keys]``; ``table`` is ``[buckets, heads]``.

    ``queries`` are the positions of the rows; keys lie at positions ``0 .. keys - 1``.
    """
    distances = queries[:, None] - np.arange(keys)[None, :]
    buckets, farthest = config.relative_buckets, config.relative_distance
    # A causal row has all buckets for keys before it: the half of a table of twice the size.
    found = (
        t5_buckets(np.maximum(distances, 0), 2 * buckets, farthest)
        if causal
        else t5_buckets(distances, buckets, farthest)
    )
    return np.ascontiguousarray(table[found].transpose(2, 0, 1))
