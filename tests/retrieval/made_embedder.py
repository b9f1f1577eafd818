"""An embedder that knows a few words, for tests of search by meaning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from miaotui.retrieval.meaning.protocols import Floats, Prompt

MEANINGS = {"cat": 0, "feline": 0, "dog": 1, "hound": 1, "car": 2, "automobile": 2, "猫": 0, "喵星人": 0}


class Dictionary:
    """Vectors by the words above; counts the passages that it was asked for."""

    def __init__(self, dimensions: int = 8, identity: str = "dictionary") -> None:
        self.dimensions, self.identity, self.asked = dimensions, identity, 0

    def embed(self, texts: Sequence[str], prompt: Prompt) -> Floats:
        self.asked += len(texts) if prompt == "passage" else 0
        vectors = np.full((len(texts), self.dimensions), 0.01, np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word, place in MEANINGS.items():
                row[place] += text.lower().count(word)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
