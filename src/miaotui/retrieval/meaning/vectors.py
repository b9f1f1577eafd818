"""Vectors of the sentences of an index, kept beside it and brought up to date from it.

Owns the graph (usearch, 8-bit integers) and the note that says whose vectors it holds. Knows embedding models by
`TextEmbedder`. Invariant: the files are a cache of the index's contents: they may lag behind, an interrupted update
goes on where it was, and files that do not fit together are made anew.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from hashlib import blake2b
from itertools import islice
from operator import xor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.config import cache_error, make_folder
from miaotui.errors import EncryptionKeyError, RequestError
from miaotui.hub.lock import try_lock
from miaotui.libraries import need
from miaotui.retrieval.document import Document
from miaotui.retrieval.index.index import Index
from miaotui.retrieval.index.settings import INDEX_FILE
from miaotui.retrieval.meaning.languages import is_chinese
from miaotui.retrieval.meaning.protocols import Floats, TextEmbedder, checked_vectors
from miaotui.retrieval.meaning.vector_files import VectorFiles
from miaotui.retrieval.sentences import stretches
from miaotui.types import Progress

FORMAT = 2  # of the index that has vectors; earlier versions of miaotui read 1 and refuse it
LONGEST_CHARS = 500  # of a sentence's vector; a longer sentence has several
_TITLE_CHARS = 100
_NUMBER_BITS = 12
_BATCH_PASSAGES = 32
_SAVE_EVERY_S = 20.0
_EXACT = 50_000  # vectors; up to so many all are compared
_LAYOUT = 3  # of the vectors of a passage: those of another one are made anew


@dataclass(frozen=True)
class VectorSpace:
    """Space of one embedding model: the folder of its vectors, the passages that it takes, and the line
    ``factor * cosine + offset`` that puts its cosines onto the scale of multilingual-e5-small, which all thresholds
    are made for.
    """

    folder: str = "vectors"
    accepts: Callable[[Document], bool] = lambda _: True
    factor: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class SentenceMatch:
    """Sentence ``[start, end)`` of a passage, and the cosine of its vector and the question's."""

    start: int
    end: int
    cosine: float


MULTILINGUAL = VectorSpace()


class PassageVectors:
    """Vectors of an open index's sentences, in one space. Safe to use from several threads."""

    def __init__(self, index: Index, embedder: TextEmbedder, space: VectorSpace = MULTILINGUAL) -> None:
        self.index, self.embedder, self._space = index, embedder, space
        self._folder = index.folder / space.folder
        self._files = VectorFiles(self._folder, index.seal)
        self._lock = threading.Lock()  # of what follows
        self._updating, self._purging = threading.Lock(), threading.Event()
        self._passages: dict[int, tuple[str, int]] = {}  # key of a passage: its id, number of its vectors
        self._names: dict[str, int] = {}
        self._mark = 0  # all keys, combined by exclusive or
        self._version = ""  # of the index, when all of it had vectors
        self._graph: Any = None  # until there is a vector
        self._stamp = 0  # of the note that was read or written last
        self._load()

    def __len__(self) -> int:
        with self._lock:
            return 0 if self._graph is None else len(self._graph)

    @property
    def state(self) -> str:
        """Return the name of what these vectors hold. It changes with them."""
        with self._lock:
            return f"{len(self._passages)}.{self._mark ^ _digest(self.embedder.identity):x}"

    @property
    def is_current(self) -> bool:
        """Return whether every passage of the index has its vectors."""
        return self._version == self.index.version

    def embed_query(self, text: str) -> Floats:
        """Return the vector of a question, ``[dimensions]``."""
        made: Floats = self._embed([text], "query")[0]
        if self._graph is not None and len(made) != self._graph.ndim:
            raise RequestError(
                f"the embedding model {self.embedder.identity} now gives vectors of {len(made)} values, not of "
                f"{self._graph.ndim}. Remove {self._folder} to make them anew"
            )
        return made

    def has(self, passage: str) -> bool:
        """Return whether the passage of this id has vectors."""
        with self._lock:
            return passage in self._names

    @property
    def passages(self) -> int:
        """Return how many passages have vectors."""
        with self._lock:
            return len(self._passages)

    def nearest(self, vector: Floats, count: int) -> dict[str, float]:
        """Return the passages with the sentences nearest to a vector: their ids and best cosines, best first.

        Looks at ``8 * count`` vectors.
        """
        with self._lock:
            total = 0 if self._graph is None else len(self._graph)
            if not total:
                return {}
            asked = _quantised(vector[None])[0]
            matches = self._graph.search(asked, min(8 * count, total), exact=total <= _EXACT)
            best: dict[str, float] = {}
            for key, distance in zip(matches.keys, matches.distances, strict=True):
                known = self._passages.get(int(key) >> _NUMBER_BITS)
                if known is not None:
                    best[known[0]] = max(best.get(known[0], -1.0), self._scaled(1.0 - float(distance)))
        ordered = sorted(best.items(), key=lambda item: (-item[1], item[0]))
        return dict(ordered[:count])

    def best(self, vector: Floats, ids: Iterable[str]) -> dict[str, float]:
        """Return the best cosine of each passage among ``ids`` that has vectors."""
        found: dict[str, float] = {}
        for name in ids:
            with self._lock:
                key = self._names.get(name)
                count = 0 if key is None else self._passages[key][1]
                cosines = None if key is None else self._cosines(vector, key, count)
            if cosines is not None and len(cosines):
                found[name] = float(cosines.max())
        return found

    def sentences(self, vector: Floats, passage: Document) -> list[SentenceMatch]:
        """Return the passage's sentences with their cosines, in order; none if it has no vectors yet."""
        key = _key(passage)
        with self._lock:
            known = self._passages.get(key)
            if known is None:
                return []
            cosines = self._cosines(vector, key, known[1])
        places = stretches(passage.body, LONGEST_CHARS)
        if places and len(cosines) == 2 * len(places):  # with their headings and without
            cosines = cosines.reshape(2, -1).max(axis=0)
        return [SentenceMatch(*place, float(each)) for place, each in zip(places, cosines, strict=False)]

    def update(self, progress: Progress | None = None, stop: Callable[[], bool] = lambda: False) -> int:
        """Make the vectors that are missing and drop those of passages that are gone. Returns how many passages got
        vectors.

        Ends early, with what there is kept, when ``stop`` says so. Does nothing while another thread or process does
        the same.
        """
        with self._alone() as alone:
            if not alone:
                return 0
            if self._files.stamp != self._stamp:  # another process has gone on
                self._load()
            if self.is_current:
                return 0
            version = self.index.version
            live = {_key(passage) for passage in self._accepted()}
            self._drop(live)
            total = len(live) - len(self._passages)
            done = self._add_missing(total, progress, stop)
            if done >= total:
                self._version = version
            if done or self._version == version:
                self._save()
            return done

    def purge(self) -> None:
        """Delete the vectors of passages that are gone from memory and from the files; makes none.

        The graph is built anew from the vectors that stay, since the library keeps a removed one's numbers.
        """
        self._purging.set()  # an update that runs ends after its batch
        with self._updating:
            self._purging.clear()
            if self._files.stamp != self._stamp:
                self._load()
            live = {_key(passage) for passage in self._accepted()}
            with self._lock:
                gone = self._passages.keys() - live
            if self._graph is None or not gone:
                return
            self._drop(live)
            with self._lock:
                keys = [(key << _NUMBER_BITS) + n for key, (_, count) in self._passages.items() for n in range(count)]
                whole, self._graph = self._graph, _graph_of(self._graph.ndim)
                if keys:
                    wanted = np.array(keys, np.uint64)
                    self._graph.add(wanted, np.asarray(whole.get(wanted), np.int8))
            self._save()

    # ---- making ----------------------------------------------------------------------------------

    def _accepted(self) -> Iterator[Document]:
        return (passage for passage in self.index.passages() if self._space.accepts(passage))

    def _add_missing(self, total: int, progress: Progress | None, stop: Callable[[], bool]) -> int:
        missing = (one for one in self._accepted() if _key(one) not in self._passages)
        done, saved_s = 0, time.monotonic()
        tell = progress or (lambda *_: None)
        while (batch := list(islice(missing, _BATCH_PASSAGES))) and not stop() and not self._purging.is_set():
            tell("embed", done, total)
            self._add(batch)
            done += len(batch)
            if time.monotonic() - saved_s > _SAVE_EVERY_S:
                self._save()
                saved_s = time.monotonic()
        tell("embed", done, total)
        return done

    def _add(self, batch: Sequence[Document]) -> None:
        keys: list[int] = []
        texts: list[str] = []
        counts: list[int] = []
        for passage in batch:
            made = texts_of(passage)[: 1 << _NUMBER_BITS]
            key = _key(passage) << _NUMBER_BITS
            keys += range(key, key + len(made))
            counts.append(len(made))
            texts += made
        vectors = _quantised(self._embed(texts, "passage"))
        with self._lock:
            if self._graph is None:
                self._graph = _graph_of(vectors.shape[1])
            self._graph.add(np.array(keys, np.uint64), vectors)
            for passage, count in zip(batch, counts, strict=True):
                self._passages[_key(passage)] = passage.id, count
                self._names[passage.id] = _key(passage)
                self._mark ^= _key(passage)

    def _drop(self, live: set[int]) -> None:
        with self._lock:
            for key in self._passages.keys() - live:
                name, count = self._passages.pop(key)
                self._mark ^= key
                if self._names.get(name) == key:
                    del self._names[name]
                first = key << _NUMBER_BITS
                self._graph.remove(np.arange(first, first + count, dtype=np.uint64))

    def _cosines(self, vector: Floats, key: int, count: int) -> Floats:
        """Return the cosines of a passage's vectors. Call it with the lock."""
        first = key << _NUMBER_BITS
        stored = self._graph.get(np.arange(first, first + count, dtype=np.uint64))
        rows = np.asarray(stored, np.float32).reshape(count, self._graph.ndim)
        lengths = np.maximum(np.linalg.norm(rows, axis=1), 1e-9)
        cosines: Floats = (rows @ vector / lengths * self._space.factor + self._space.offset).astype(np.float32)
        return cosines

    def _scaled(self, cosine: float) -> float:
        return self._space.factor * cosine + self._space.offset

    def _embed(self, texts: Sequence[str], prompt: Any) -> Floats:
        try:
            return checked_vectors(self.embedder.embed(texts, prompt), len(texts))
        except ValueError as error:
            raise RequestError(
                f"the embedding model {self.embedder.identity} cannot be used: {error}. Choose another"
            ) from error

    # ---- files -----------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Hold the right to update; False where another thread or process has it."""
        if not self._updating.acquire(blocking=False):
            yield False
            return
        held = -1
        try:
            if not (self.index.folder / INDEX_FILE).exists():  # deleted meanwhile: nothing is to be made in its place
                yield False
                return
            make_folder(self._folder)
            held = os.open(self._folder / "update.lock", os.O_RDWR | os.O_CREAT, 0o666)
            yield try_lock(held)
        except OSError as error:
            raise cache_error(error, self._folder) from error
        finally:
            if held >= 0:
                os.close(held)
            self._updating.release()

    def _load(self) -> None:
        """Load the files if they fit together and are of this model; otherwise keep what there is."""
        self._stamp = self._files.stamp
        try:
            note = self._files.read_note()
            if note["embedder"] != self.embedder.identity or note.get("layout") != _LAYOUT:
                return
            passages = {int(key): (str(name), int(count)) for key, (name, count) in note["passages"].items()}
            graph = _graph_of(int(note["dimensions"]))
            self._files.load_graph(str(note["file"]), graph)
            if len(graph) == sum(count for _, count in passages.values()):
                with self._lock:
                    self._graph, self._passages, self._version = graph, passages, str(note["version"])
                    self._names = {name: key for key, (name, _) in passages.items()}
                    self._mark = reduce(xor, passages, 0)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, EncryptionKeyError):
            return

    def _save(self) -> None:
        """Write graph and note, then raise the index's format."""
        with self._lock:
            if self._graph is None:
                return
            note = {
                "embedder": self.embedder.identity,
                "layout": _LAYOUT,
                "dimensions": self._graph.ndim,
                "version": self._version,
                "passages": {str(key): known for key, known in self._passages.items()},
            }
            self._files.write(note, self._graph)
            self._stamp = self._files.stamp
        self.index.raise_format(FORMAT)


def texts_of(passage: Document) -> list[str]:
    """Return the texts whose vectors stand for a passage's sentences: the heading above it, then the sentence.

    In Chinese all sentences follow once more without the heading, which is a short noun there and hides what the
    sentence says (`benchmarks/retrieval/meaning.py`). A passage without sentences has its title.
    """
    heading = passage.title.rpartition(" › ")[2][:_TITLE_CHARS]
    sentences = [passage.body[start:end] for start, end in stretches(passage.body, LONGEST_CHARS)]
    texts = [f"{heading} {sentence}".strip() for sentence in sentences]
    if heading and is_chinese(passage.body):
        texts += sentences
    return texts or [passage.title]


def _graph_of(dimensions: int) -> Any:
    """Return an empty graph. Raises `ValueError` for a number of dimensions that no model has."""
    if not 1 <= dimensions <= 65_536:
        raise ValueError(f"{dimensions} dimensions")
    return need("usearch.index").Index(ndim=dimensions, metric="cos", dtype="i8")


def _quantised(vectors: Floats) -> NDArray[np.int8]:
    """Return vectors as integers of -127 to 127, each scaled by its own largest value; cosines need no scale."""
    largest = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-9)
    scaled: NDArray[np.int8] = np.rint(vectors * (127 / largest)).astype(np.int8)
    return scaled


def _key(passage: Document) -> int:
    """Return a key that changes with the passage's text, so that a changed passage gets new vectors."""
    text = f"{passage.id}\0{passage.title}\0{passage.body}"
    return _digest(text) >> (_NUMBER_BITS + 1)


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
