"""The encoders by which applications search by meaning, where they are on this computer.

Owns their names in the catalog and their opening. Knows encoders by `miaotui.encoder`. Invariant: nothing is
downloaded; an encoder that is not here is left out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from miaotui.closing import Closing
from miaotui.config import Settings
from miaotui.encoder import Encoder, load_encoder
from miaotui.errors import ModelNotFoundError
from miaotui.hub.resolve import resolve
from miaotui.hub.store import content_key
from miaotui.retrieval.meaning.protocols import Floats, Prompt
from miaotui.types import Progress

EMBEDDER, RERANKER = "embedder", "reranker"  # names in the catalog
ENGLISH_EMBEDDERS = ("bge-small-en", "all-minilm-l6-v2")  # both are asked, or none


class LazyEncoder(Closing):
    """Encoder that is loaded when it is first used; ``identity`` is known before."""

    def __init__(self, path: Path, load: Callable[[Path], Encoder]) -> None:
        self.path, self.identity = path, content_key(path, {"for": "meaning"})
        self._load, self._lock = load, threading.Lock()
        self._loaded: Encoder | None = None

    @property
    def encoder(self) -> Encoder:
        """Return the encoder, loaded if it was not. Raises a `MiaotuiError`."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load(self.path)
            return self._loaded

    def close(self) -> None:
        """Give the memory back. Closing twice does nothing."""
        with self._lock:
            if self._loaded is not None:
                self._loaded.close()
                self._loaded = None


class EncoderEmbedder:
    """`TextEmbedder` over an encoder."""

    def __init__(self, lazy: LazyEncoder) -> None:
        self._lazy, self.identity = lazy, lazy.identity

    def embed(self, texts: Sequence[str], prompt: Prompt) -> Floats:
        """Return vectors of unit length, float32 ``[n, dimensions]``; texts beyond the model's limit are cut."""
        kind = "query" if prompt == "query" else "document"
        return self._lazy.encoder.embed(list(texts), prompt=kind, normalize=True, truncate=True)


class JoinedEmbedder:
    """`TextEmbedder` over several encoders: its vectors are theirs, one after the other.

    So its cosine is the mean of their cosines. Models that learned from other texts err on other questions.
    """

    def __init__(self, parts: Sequence[EncoderEmbedder]) -> None:
        self._parts = list(parts)
        self.identity = "+".join(part.identity for part in parts)

    def embed(self, texts: Sequence[str], prompt: Prompt) -> Floats:
        """Return vectors of unit length, float32 ``[n, sum of dimensions]``."""
        joined: Floats = np.concatenate([part.embed(texts, prompt) for part in self._parts], axis=1)
        joined /= np.float32(np.sqrt(len(self._parts)))
        return joined


class EncoderReranker:
    """`Reranker` over a cross-encoder."""

    def __init__(self, lazy: LazyEncoder) -> None:
        self._lazy, self.identity = lazy, lazy.identity

    def score(self, pairs: Sequence[tuple[str, str]], within_ms: float | None = None) -> Floats:
        """Return logits ``[n]``. Raises `RefusedError` if that takes longer than ``within_ms``."""
        if not pairs:
            return np.empty(0, np.float32)
        return self._lazy.encoder.score(list(pairs), truncate=True, deadline_ms=within_ms)


class Encoders(Closing):
    """The encoders that are here; loaded when they are first used. Close it to give their memory back."""

    def __init__(
        self, embedder: LazyEncoder, reranker: LazyEncoder | None, english: Sequence[LazyEncoder] = ()
    ) -> None:
        self._open = [each for each in (embedder, reranker, *english) if each is not None]
        self.embedder = EncoderEmbedder(embedder)
        self.english = JoinedEmbedder([EncoderEmbedder(each) for each in english]) if english else None
        self.reranker = None if reranker is None else EncoderReranker(reranker)

    def load(self) -> None:
        """Load all of them now, so that no question waits for that. Raises a `MiaotuiError`."""
        for each in self._open:
            _ = each.encoder

    def close(self) -> None:
        """Give the memory back. Closing twice does nothing."""
        for each in self._open:
            each.close()


def find_encoder(name: str, settings: Settings | None = None) -> Path | None:
    """Return where an encoder of the catalog lies, or None if it is not here."""
    try:
        return resolve(name, allow_download=False, settings=settings)
    except ModelNotFoundError:
        return None


def find_encoders(
    settings: Settings | None = None,
    *,
    rerank: bool = True,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Encoders | None:
    """Return the embedders and, with ``rerank``, the reranker if that is here too; None if the multilingual embedder
    is not.
    """
    embedder = find_encoder(EMBEDDER, settings)
    if embedder is None:
        return None

    def load(path: Path) -> Encoder:
        return load_encoder(path, threads=threads, progress=progress)

    reranker = find_encoder(RERANKER, settings) if rerank else None
    english = [path for name in ENGLISH_EMBEDDERS if (path := find_encoder(name, settings)) is not None]
    if len(english) < len(ENGLISH_EMBEDDERS):
        english = []
    return Encoders(
        LazyEncoder(embedder, load),
        None if reranker is None else LazyEncoder(reranker, load),
        [LazyEncoder(path, load) for path in english],
    )
