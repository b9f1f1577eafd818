"""The models that retrieval by meaning uses, as far as it knows them.

Owns the protocols `TextEmbedder` and `Reranker`. Knows no engine: `apps.meaning.encoders` makes both from loaded
encoders. Invariant: equal identities give equal numbers for equal texts, so that vectors may be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Prompt = Literal["query", "passage"]


class TextEmbedder(Protocol):
    """Model that makes vectors of texts."""

    @property
    def identity(self) -> str:
        """Return what tells its vectors from those of other models."""

    def embed(self, texts: Sequence[str], prompt: Prompt) -> Floats:
        """Return vectors of unit length, float32 ``[n, dimensions]``; texts that are too long may be cut."""


class Reranker(Protocol):
    """Model that reads a question and a text together."""

    @property
    def identity(self) -> str:
        """Return what tells its scores from those of other models."""

    def score(self, pairs: Sequence[tuple[str, str]], within_ms: float | None = None) -> Floats:
        """Return how well each pair's text answers its question, as logits ``[n]``.

        Raises `RefusedError` if that takes longer than ``within_ms``.
        """


def checked_vectors(vectors: Any, count: int) -> Floats:
    """Return vectors as float32 ``[count, dimensions]``. Raises `ValueError` if they have another shape or are not
    finite.
    """
    made = np.asarray(vectors, np.float32)
    if made.ndim != 2 or len(made) != count or made.shape[1] < 1 or not np.isfinite(made).all():
        raise ValueError(f"{count} finite vectors were expected, not an array of shape {made.shape}")
    return made
