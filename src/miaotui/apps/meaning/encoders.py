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

    def __init__(self, embedder: LazyEncoder, reranker: LazyEncoder | None) -> None:
        self._open = [each for each in (embedder, reranker) if each is not None]
        self.embedder = EncoderEmbedder(embedder)
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
    """Return the embedder and, with ``rerank``, the reranker if that is here too; None if the embedder is not."""
    embedder = find_encoder(EMBEDDER, settings)
    if embedder is None:
        return None

    def load(path: Path) -> Encoder:
        return load_encoder(path, threads=threads, progress=progress)

    reranker = find_encoder(RERANKER, settings) if rerank else None
    return Encoders(LazyEncoder(embedder, load), None if reranker is None else LazyEncoder(reranker, load))
