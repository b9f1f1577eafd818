"""Vectors of words and names that are kept while a graph changes.

Owns which texts are remembered. Knows an embedder's protocol. Invariant: a kept vector is the one that the embedder
gave; of more than `MOST_TEXTS` the oldest are forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from miaotui.retrieval.meaning.protocols import Floats, Prompt, TextEmbedder, checked_vectors

MOST_TEXTS = 40_000


class KeptVectors:
    """`TextEmbedder` that embeds each text once."""

    def __init__(self, embedder: TextEmbedder) -> None:
        self._embedder, self.identity = embedder, embedder.identity
        self._kept: dict[tuple[Prompt, str], Floats] = {}

    def embed(self, texts: Sequence[str], prompt: Prompt) -> Floats:
        """Return vectors of unit length, float32 ``[n, dimensions]``; new texts are embedded together."""
        new = [each for each in dict.fromkeys(texts) if (prompt, each) not in self._kept]
        if new:
            vectors = checked_vectors(self._embedder.embed(new, prompt), len(new))
            self._kept |= {(prompt, each): vector for each, vector in zip(new, vectors, strict=True)}
        found = np.stack([self._kept[prompt, each] for each in texts])
        while len(self._kept) > MOST_TEXTS:
            del self._kept[next(iter(self._kept))]
        return found
