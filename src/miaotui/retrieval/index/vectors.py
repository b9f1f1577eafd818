"""Search by meaning beside search by words: vectors of an embedding model, fused by rank.

Owns the neighbours of one index (a usearch graph in its folder) and the fusion. Knows embedding models by one method.
Invariant: the graph is a cache of the index's contents; it is updated before a search, and made anew when its files
do not fit together. Fusion is reciprocal rank (Cormack, Clarke & Büttcher 2009), which needs no common scale of
scores.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from miaotui.config import cache_error, make_folder
from miaotui.errors import RequestError
from miaotui.libraries import need
from miaotui.retrieval.document import Document, Hit, Results
from miaotui.retrieval.index.index import Index

K = 60  # of the fusion; the value of the paper
_DEPTH = 50  # passages of each ranking that are fused, at least
_BATCH = 1_024


class Embedder(Protocol):
    """Embedding model. model2vec's `StaticModel` is one."""

    def encode(self, sentences: Sequence[str], /) -> Any:
        """Return vectors, [len(sentences), dimensions] float32."""


def model2vec(folder: Path) -> Embedder:
    """Return the static embedding model in a folder; raises `RequestError` when it cannot be read."""
    library = need("model2vec")
    try:
        model: Embedder = library.StaticModel.from_pretrained(folder, force_download=False)
    except Exception as error:  # the library raises what its readers raise
        raise RequestError(
            f"{folder} holds no model2vec model that can be read: {error}. Name such a folder"
        ) from error
    return model


class Neighbours:
    """Vectors of an open index's passages. Safe to use from several threads."""

    def __init__(self, index: Index, embedder: Embedder) -> None:
        self._index, self._embedder = index, embedder
        self._folder = index.folder / "vectors"
        self._lock = threading.Lock()
        self._dimensions = self._embed(["dimensions"]).shape[1]
        self._ids: dict[int, str] = {}  # by the key that the graph knows a passage by
        self._version = ""
        self._graph = self._empty()
        self._load()

    def search(self, query: str, limit: int = 10, *, plain: bool = False) -> Results:
        """Return the best passages by words and by meaning together; scores are sums of 1 / (60 + rank).

        Raises what `Index.search` raises.
        """
        depth = max(limit, _DEPTH)
        by_words = self._index.search(query, depth, plain=plain)
        self.refresh()
        passages = {hit.id: hit.passage for hit in by_words}
        scores: dict[str, float] = {}
        for ranking in (list(passages), self._nearest(query, depth)):
            for rank, name in enumerate(ranking, 1):
                scores[name] = scores.get(name, 0.0) + 1 / (K + rank)
        best = sorted(scores, key=lambda name: (-scores[name], name))[:limit]
        ranked = self._index.read(query, plain)
        hits = []
        for name in best:
            passage = passages.get(name) or self._passage(name)
            if passage is not None:
                hits.append(Hit(passage, scores[name], ranked))
        return Results(tuple(hits), by_words.version, by_words.warnings)

    def refresh(self) -> int:
        """Update the vectors from the index. Returns how many passages were embedded."""
        with self._lock:
            version = self._index.version
            if version == self._version:
                return 0
            live = {_key(one): one for one in self._index.passages()}
            for key in self._ids.keys() - live.keys():
                self._graph.remove(key)
                del self._ids[key]
            new = [key for key in live if key not in self._ids]
            for start in range(0, len(new), _BATCH):
                keys = new[start : start + _BATCH]
                vectors = self._embed([f"{live[key].title} {live[key].body}" for key in keys])
                self._graph.add(np.array(keys, np.uint64), vectors)
                self._ids.update((key, live[key].id) for key in keys)
            self._version = version
            self._save()
            return len(new)

    def _nearest(self, query: str, depth: int) -> list[str]:
        if not self._ids:
            return []
        with self._lock:
            matches = self._graph.search(self._embed([query])[0], min(depth, len(self._ids)))
            return [self._ids[int(key)] for key in matches.keys if int(key) in self._ids]

    def _passage(self, name: str) -> Document | None:
        return next((one for one in self._index.get(name) if one.id == name), None)

    def _embed(self, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        vectors = np.asarray(self._embedder.encode(texts), np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise RequestError("the embedding model must give one finite vector for each text")
        return vectors

    def _empty(self) -> Any:
        usearch = need("usearch.index")
        return usearch.Index(ndim=self._dimensions, metric="cos", dtype="f16")

    def _load(self) -> None:
        """Load the files if they fit together; otherwise begin with an empty graph."""
        try:
            note = json.loads((self._folder / "vectors.json").read_text(encoding="utf-8"))
            ids = {int(key): str(name) for key, name in note["ids"].items()}
            if note["dimensions"] != self._dimensions:
                return
            graph = self._empty()
            graph.load(str(self._folder / note["file"]))
            if len(graph) == len(ids):
                self._graph, self._ids, self._version = graph, ids, str(note["version"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
            return

    def _save(self) -> None:
        """Write the graph under a new name, then the note that names it."""
        make_folder(self._folder)
        name = f"{self._version}.usearch"
        note = {
            "version": self._version,
            "file": name,
            "dimensions": self._dimensions,
            "ids": {str(key): one for key, one in self._ids.items()},
        }
        try:
            self._graph.save(str(self._folder / name))
            part = self._folder / "vectors.json.part"
            part.write_text(json.dumps(note, ensure_ascii=False), encoding="utf-8")
            os.replace(part, self._folder / "vectors.json")
            for old in self._folder.glob("*.usearch"):
                if old.name != name:
                    old.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:
            raise cache_error(OSError(*error.args), self._folder) from error


def _key(passage: Document) -> int:
    """Return a key that changes with the passage's text, so that a changed passage is embedded again."""
    text = f"{passage.id}\0{passage.title}\0{passage.body}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
