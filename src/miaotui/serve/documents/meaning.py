"""Search by meaning in a server: the indexes' vectors, made while the engines are idle.

Owns one thread, which brings the vectors of changed indexes up to date, and the map from an index to its hybrid.
Knows indexes, vectors and encoders by their public calls. Invariants: a search waits neither for the encoders nor for
vectors, it uses what is there; between two batches of passages the thread waits until no model has work, for
`MOST_WAIT_S` at most.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from miaotui.apps.meaning.encoders import Encoders
from miaotui.apps.qa_pipeline import Searchable
from miaotui.errors import MiaotuiError
from miaotui.retrieval.index.index import Index
from miaotui.retrieval.meaning.bilingual import MeaningVectors
from miaotui.retrieval.meaning.hybrid import HybridIndex
from miaotui.retrieval.meaning.protocols import Reranker, TextEmbedder
from miaotui.serve import LOG

MOST_WAIT_S = 10.0
MOST_HYBRIDS = 64  # in memory
_LOOK_S = 0.05


class MeaningService:
    """Hybrids of a server's indexes. Close it, so that its thread ends; safe to use from several threads.

    ``is_busy`` says whether a model has work.
    """

    def __init__(self, encoders: Encoders, is_busy: Callable[[], bool] = lambda: False) -> None:
        self._encoders, self._is_busy = encoders, is_busy
        self._hybrids: OrderedDict[Path, HybridIndex] = OrderedDict()  # by the index's folder, used last at the end
        self._lock = threading.Lock()
        self._due: dict[Index, None] = {}
        self._wakeup, self._closing, self._loaded = threading.Event(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def reranker(self) -> Reranker | None:
        """Return the reranker, if it is here."""
        return self._encoders.reranker

    @property
    def embedder(self) -> TextEmbedder:
        """Return the embedder, which is loaded at its first use."""
        return self._encoders.embedder

    def load(self) -> None:
        """Load the encoders now, so that `searchable` gives hybrids from the first call. Raises a `MiaotuiError`."""
        self._encoders.load()
        self._loaded.set()

    def searchable(self, index: Index) -> Searchable:
        """Return an index that is searched by meaning too; missing vectors are made from now on.

        Until the encoders are loaded, which the first call begins, it is the index itself.
        """
        if not self._loaded.is_set():
            self.changed(index)
            return index
        hybrid = self._hybrid(index)
        if not hybrid.vectors.is_current:
            self.changed(index)
        return hybrid

    def changed(self, index: Index) -> None:
        """Bring an index's vectors up to date soon."""
        with self._lock:
            if self._closing.is_set():
                return
            self._due[index] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="miaotui-vectors", daemon=True)
                self._thread.start()
        self._wakeup.set()

    def drop_deleted(self, index: Index) -> None:
        """Delete the vectors of passages that are gone, from memory and from the files."""
        self._hybrid(index).vectors.purge()
        self.changed(index)  # an update may have ended early for this

    def forget(self, folder: Path) -> None:
        """Make no vectors any more for an index that was deleted."""
        with self._lock:
            self._hybrids.pop(folder, None)
            for index in [each for each in self._due if each.folder == folder]:
                del self._due[index]

    def close(self) -> None:
        """End the thread, after the batch that it is at, and give the encoders' memory back."""
        with self._lock:
            self._closing.set()
            thread = self._thread
        self._wakeup.set()
        if thread is not None:
            thread.join()
        self._encoders.close()

    def _run(self) -> None:
        try:
            self.load()
        except MiaotuiError as error:
            LOG.error("documents are searched by words alone, the encoders cannot be used: %s", error)
            return
        while not self._closing.is_set():
            self._wakeup.wait()
            self._wakeup.clear()
            while (index := self._next()) is not None:
                try:
                    made = self._hybrid(index).vectors.update(stop=self._waited)
                    if made:
                        LOG.info("%d passages of the index %s can be found by meaning", made, index.folder.name)
                except MiaotuiError as error:
                    LOG.error("vectors of the index %s: %s", index.folder.name, error)

    def _hybrid(self, index: Index) -> HybridIndex:
        with self._lock:
            hybrid = self._hybrids.get(index.folder)
            if hybrid is None or hybrid.index is not index:  # the registry has opened it again
                hybrid = self._hybrids[index.folder] = HybridIndex(
                    MeaningVectors(index, self._encoders.embedder, self._encoders.english)
                )
            self._hybrids.move_to_end(index.folder)
            while len(self._hybrids) > MOST_HYBRIDS:
                self._hybrids.popitem(last=False)
            return hybrid

    def _next(self) -> Index | None:
        with self._lock:
            if not self._due or self._closing.is_set():
                return None
            index = next(iter(self._due))
            del self._due[index]
            return index

    def _waited(self) -> bool:
        """Wait while a model has work; return whether to stop."""
        until_s = time.monotonic() + MOST_WAIT_S
        while self._is_busy() and time.monotonic() < until_s and not self._closing.is_set():
            self._closing.wait(_LOOK_S)
        return self._closing.is_set()
