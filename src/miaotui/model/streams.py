"""Several residual streams side by side, of which a layer computes one and predicts the others (AltUp).

Owns the configuration and the formulas in NumPy. Knows neither files nor kernels. Invariant: a row's streams depend on
that row alone. Sources: Baykal et al. 2023, "Alternating Updates for Efficient Transformers" (section 3); Menghani et
al. 2024, "LAuReL" (section 3.1); Gemma 3n (2025), which computes the first of four streams in every layer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import UnsupportedModelError
from miaotui.model.reading.checks import require_count

Array = NDArray[np.float32]

STREAMS = 4
LEAST_SQUARE = 1e-5  # a stream whose mean square is smaller is scaled as if it were this
MAX_RANK = 1 << 14


class StreamsConfig(NamedTuple):
    """Streams of a model; ``rank`` is that of the learned residual beside attention."""

    rank: int
    number: int = STREAMS

    def check(self) -> None:
        """Raise `UnsupportedModelError` for another number of streams than is computed here."""
        if self.number != STREAMS:
            raise UnsupportedModelError(
                f"the model has {self.number} residual streams, and only {STREAMS} are supported: choose another model"
            )
        require_count("rank of the learned residual", self.rank, MAX_RANK)


def modalities(x: Array, norm: Array, router: Array, eps: float) -> Array:
    """Return the weights ``[n, streams]`` of a row's parts, of the computed stream ``x [n, hidden]``."""
    normed = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps)) * norm
    found: Array = np.tanh((normed / np.float32(x.shape[-1])) @ router.T)
    return found


def predicted(streams: Array, weights: Array, coefficients: Array) -> Array:
    """Return what a layer is expected to leave: each stream ``[n, streams, hidden]`` plus a mixture of all.

    ``coefficients [streams * streams, streams]`` make the mixtures from the ``weights [n, streams]``.
    """
    count = streams.shape[1]
    mixtures = (weights @ coefficients.T).reshape(-1, count, count)  # [n, result, stream]
    result: Array = streams + mixtures @ streams
    return result


def corrected(predictions: Array, computed: Array, weights: Array, coefficients: Array) -> Array:
    """Return the predictions ``[n, streams, hidden]``, each moved by what the computed one was wrong by."""
    shares = weights @ coefficients.T + np.float32(1)  # [n, streams]
    result: Array = predictions + shares[:, :, None] * (computed - predictions[:, 0])[:, None]
    return result


def with_length_of(x: Array, model: Array) -> Array:
    """Return ``x [..., hidden]`` scaled to the root mean square of ``model``."""
    target = np.sqrt(np.mean(model * model, axis=-1, keepdims=True))
    square = np.mean(x * x, axis=-1, keepdims=True)
    result: Array = x * target / np.sqrt(np.maximum(square, np.float32(LEAST_SQUARE)))
    return result
