"""Relative positions of encoders as small tables, indexed by the distance of query and key.

Owns ALiBi's table, MPNet's and DeBERTa's buckets. Knows no states. Invariant: a table for texts of up to ``length``
tokens has ``2 * length - 1`` columns, and column ``length - 1 + query - key`` belongs to that pair of positions.
Sources: ALiBi (Press et al., 2022) in its symmetric form, T5 (Raffel et al., 2020) for MPNet's buckets, DeBERTa (He et
al., 2021, section 3.1) and its v2's logarithmic buckets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from miaotui.model.alibi import alibi_slopes
from miaotui.model.encoder.config import EncoderConfig

Array = NDArray[np.float32]
Indices = NDArray[np.intp]


def bias_table(config: EncoderConfig, weights: Mapping[str, Array], length: int) -> Array | None:
    """Return the bias added to the scaled scores, ``[heads, 2 * length - 1]``; None for other position encodings.

    ``weights`` must hold "relative_bias" where the position encoding is "relative".
    """
    distances = distances_up_to(length)
    if config.position == "alibi":
        return -alibi_slopes(config.n_heads)[:, None] * np.abs(distances).astype(np.float32)
    if config.position == "relative":
        buckets = t5_buckets(distances, config.relative_buckets, config.relative_distance)
        return np.ascontiguousarray(weights["relative_bias"][buckets].T)
    return None


def disentangled_rows(config: EncoderConfig, length: int) -> Indices:
    """Return the row of ``relative_embed`` for each distance of query and key, ``[2 * length - 1]``.

    Both terms read this row: content to position in the keys of the rows, position to content in their queries.
    """
    span = config.relative_buckets
    buckets = log_buckets(distances_up_to(length), span, config.relative_distance)
    return np.clip(buckets + span, 0, 2 * span - 1)


def distances_up_to(length: int) -> Indices:
    """Return ``query - key`` for each column of a table: ``1 - length .. length - 1``."""
    return np.arange(1 - length, length)


def by_distance(length: int) -> Indices:
    """Return the column of each pair of positions, ``[length queries, length keys]``."""
    positions = np.arange(length)
    return length - 1 + positions[:, None] - positions[None, :]


def t5_buckets(distances: Indices, buckets: int, farthest: int) -> Indices:
    """Return the bucket of each ``query - key``: half for keys before the query, half for those after it.

    Of each half the first half is one bucket per distance, the rest grows logarithmically up to ``farthest``. float32,
    in the order of the reference, since some distances lie on a boundary.
    """
    half = buckets // 2
    exact = half // 2
    far = np.abs(distances)
    ratio = np.maximum(far, exact).astype(np.float32) / np.float32(exact)
    steps = np.log(ratio) / np.float32(math.log(farthest / exact)) * np.float32(half - exact)
    logarithmic = np.minimum(exact + steps.astype(np.intp), half - 1)
    return np.where(far < exact, far, logarithmic) + np.where(distances < 0, half, 0)


def log_buckets(distances: Indices, buckets: int, farthest: int) -> Indices:
    """Return DeBERTa-v2's bucket of each ``query - key``, negative for keys after the query.

    Distances up to ``buckets // 2`` have their own; from there to ``farthest - 1`` buckets grow logarithmically to
    ``buckets - 1``. With ``farthest`` of 0 every distance is its own bucket. float32, in the order of the reference.
    """
    if farthest == 0:
        return distances
    middle = buckets // 2
    far = np.maximum(np.abs(distances), middle)
    growth = np.log(far.astype(np.float32) / np.float32(middle)) / np.log(np.float32((farthest - 1) / middle))
    logarithmic = np.ceil(growth * np.float32(middle - 1)).astype(np.intp) + middle
    return np.where(np.abs(distances) <= middle, distances, logarithmic * np.sign(distances))
