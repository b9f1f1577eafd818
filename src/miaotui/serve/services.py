"""Parts of a running server that its handlers use, in one typed value.

Owns the list of parts. Knows neither how they are made (`start`) nor any route. Invariant: all parts exist before the
first request, and a handler makes none.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from miaotui.retrieval.answers.cache import AnswerCache
from miaotui.serve.documents.index_registry import IndexRegistry
from miaotui.serve.encoders.registry import EncoderRegistry
from miaotui.serve.learned.saved import SavedFiles
from miaotui.serve.middleware.keys import Caller
from miaotui.serve.models import ServedModels
from miaotui.serve.openai.responses.store import ResponseStore
from miaotui.serve.seq2seq.models import Seq2SeqModels
from miaotui.serve.settings import ServeSettings
from miaotui.serve.speech.models import SpeechModels
from miaotui.serve.tasks.heads import ServedHeads
from miaotui.serve.tenants.allowance import Allowance
from miaotui.serve.tenants.view import narrowed

if TYPE_CHECKING:
    from miaotui.apps.qa_pipeline import Searchable
    from miaotui.apps.support import Support
    from miaotui.retrieval.graph import GraphReader
    from miaotui.retrieval.index.index import Index
    from miaotui.serve.documents.meaning import MeaningService
    from miaotui.serve.ops.operations import Operations
    from miaotui.tasks.recommend import Recommender


def saved_recommenders() -> SavedFiles[Recommender]:
    """Return the recommenders of miaotui's folder."""

    def read(path: Path) -> Recommender:
        from miaotui.tasks.recommend.file import load_recommender  # noqa: PLC0415  (only where one is asked for)

        return load_recommender(path)

    return SavedFiles("recommenders", ".npz", read)


def saved_graphs() -> SavedFiles[GraphReader]:
    """Return the graphs of miaotui's folder."""

    def read(path: Path) -> GraphReader:
        from miaotui.retrieval.graph import GraphReader, KnowledgeGraph  # noqa: PLC0415  (only where one is asked for)

        return GraphReader(KnowledgeGraph.load(path))

    return SavedFiles("graphs", ".json", read)


class IndexReplicas(Protocol):
    """Copies of indexes in other processes, which search them."""

    def searchable(self, index: Index) -> Searchable:
        """Return an index whose searches go to the copies."""

    def changed(self, index: Index) -> None:
        """Bring the copies of an index up to date soon."""

    def drop(self, folder: Path) -> None:
        """Delete the copies of the index in a folder, or of all indexes in it; wait until they are gone."""

    def close(self) -> None:
        """Give the copies up."""


@dataclass(frozen=True)
class Services:
    """The parts of one server; None stands for an optional part that this server does not have."""

    models: ServedModels
    settings: ServeSettings
    operations: Operations
    encoders: EncoderRegistry = field(default_factory=EncoderRegistry)
    seq2seq: Seq2SeqModels = field(default_factory=Seq2SeqModels)
    speech: SpeechModels = field(default_factory=SpeechModels)
    indexes: IndexRegistry = field(default_factory=IndexRegistry)
    responses: ResponseStore = field(default_factory=ResponseStore)
    recommenders: SavedFiles[Recommender] = field(default_factory=saved_recommenders)
    graphs: SavedFiles[GraphReader] = field(default_factory=saved_graphs)
    heads: ServedHeads = field(default_factory=ServedHeads)
    response_cache: AnswerCache | None = None
    support: Support | None = None
    meaning: MeaningService | None = None
    index_replicas: IndexReplicas | None = None  # that search instead of this process

    def narrowed(self, allowance: Allowance) -> Services:
        """Return these parts as far as a caller with ``allowance`` may use them."""
        return narrowed(self, allowance)

    def forget_answers(self, caller: Caller, index: str) -> None:
        """Delete the answers that were kept from an index of a caller."""
        if self.response_cache is not None:
            self.response_cache.forget_index(caller.owner, index)

    def forget(self, caller: Caller) -> None:
        """Drop what memory holds of a caller that is gone, and keep nothing more for it."""
        self.responses.drop_all(caller.owner)
        if self.response_cache is not None:
            self.response_cache.keep_no_more(caller.owner)

        def work() -> None:
            self.drop_copies(self.indexes.forget(caller))

        threading.Thread(target=work, name="miaotui-forget", daemon=True).start()

    def drop_copies(self, folder: Path) -> None:
        """Delete what other processes hold of the index in a folder, or of the indexes in it."""
        if self.index_replicas is not None:
            self.index_replicas.drop(folder)

    def graph(self, name: str) -> GraphReader:
        """Return a graph, which reads words by meaning where this server does. Raises `RequestError`."""
        reader = self.graphs.find(name)
        if self.meaning is not None:
            reader.read_words_with(self.meaning.embedder)
        return reader

    def searchable(self, index: Index) -> Searchable:
        """Return an index in the form in which it is searched: by meaning too where the embedder is here."""
        if self.meaning is not None:
            return self.meaning.searchable(index)
        return index if self.index_replicas is None else self.index_replicas.searchable(index)

    def index_changed(self, index: Index) -> None:
        """Have what was made from an index brought up to date soon."""
        if self.meaning is not None:
            self.meaning.changed(index)
        if self.index_replicas is not None:
            self.index_replicas.changed(index)

    def close(self) -> None:
        """Close what has files or threads: models, indexes, logs and traces."""
        if self.meaning is not None:
            self.meaning.close()
        if self.index_replicas is not None:
            self.index_replicas.close()
        self.models.close()
        self.seq2seq.close()
        self.speech.close()
        self.encoders.close()
        self.operations.close()
        self.indexes.close()
