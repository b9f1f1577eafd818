"""Parts of a running server that its handlers use, in one typed value; its models by name.

Owns the list of parts, and the map from the ``model`` field of a request to a `ServedModel`. Knows neither how they are
made (`start`) nor any route. Invariants: all parts exist before the first request, and a handler makes none; models
are added while the server starts and closed when it ends, and the first one answers requests that name none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request as HttpRequest

from miaotui.retrieval.answers.cache import AnswerCache
from miaotui.serve.documents.index_registry import IndexRegistry
from miaotui.serve.encoders.registry import EncoderRegistry
from miaotui.serve.learned.saved import SavedFiles
from miaotui.serve.openai.responses.store import ResponseStore
from miaotui.serve.settings import ServeSettings

if TYPE_CHECKING:
    from miaotui.apps.qa_pipeline import Searchable
    from miaotui.apps.support import Support
    from miaotui.retrieval.graph import GraphReader
    from miaotui.retrieval.index.index import Index
    from miaotui.serve.documents.meaning import MeaningService
    from miaotui.serve.ops.operations import Operations
    from miaotui.tasks.recommend import Recommender
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

from miaotui.serve.http.errors import bad_value, model_not_found
from miaotui.served_model import ServedModel


class ServedModels(Mapping[str, ServedModel]):
    """A read-only mapping of names to models, in the order in which they were added."""

    def __init__(
        self, models: Iterable[ServedModel] = (), encoder_names: Callable[[], Iterable[str]] = lambda: ()
    ) -> None:
        self._by_name = {model.name: model for model in models}
        self._encoder_names = encoder_names

    def __getitem__(self, name: str) -> ServedModel:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def add(self, model: ServedModel) -> None:
        """Add a model under its own name."""
        self._by_name[model.name] = model

    def find(self, name: str | None) -> ServedModel:
        """Return the model of that name; the first one for None.

        Raises `ApiError`: 404 if there is none, 400 for the name of an encoder.
        """
        if name is None and self._by_name:
            return next(iter(self._by_name.values()))
        found = None if name is None else self._by_name.get(name)
        if found is None:
            self._refuse_encoder(name)
            raise model_not_found(name or "", self._by_name)
        return found

    def _refuse_encoder(self, name: str | None) -> None:
        """Raise `ApiError` where an encoder is meant, or where there are encoders alone."""
        encoders = set(self._encoder_names())
        chats = ", ".join(sorted(self._by_name)) or "none: start the server with one"
        if name in encoders or (name is None and encoders):
            what = f"{name} is an encoder, which writes no text" if name else "all models here are encoders"
            raise bad_value("model", f"{what}; chat models here: {chats}")

    def close(self) -> None:
        """Close every model, also after one of them failed to close."""
        for model in self._by_name.values():
            with suppress(Exception):
                model.close()


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


@dataclass(frozen=True)
class Services:
    """The parts of one server; None stands for an optional part that this server does not have."""

    models: ServedModels
    settings: ServeSettings
    operations: Operations
    encoders: EncoderRegistry = field(default_factory=EncoderRegistry)
    indexes: IndexRegistry = field(default_factory=IndexRegistry)
    responses: ResponseStore = field(default_factory=ResponseStore)
    recommenders: SavedFiles[Recommender] = field(default_factory=saved_recommenders)
    graphs: SavedFiles[GraphReader] = field(default_factory=saved_graphs)
    response_cache: AnswerCache | None = None
    support: Support | None = None
    meaning: MeaningService | None = None

    def graph(self, name: str) -> GraphReader:
        """Return a graph, which reads words by meaning where this server does. Raises `RequestError`."""
        reader = self.graphs.find(name)
        if self.meaning is not None:
            reader.read_words_with(self.meaning.embedder)
        return reader

    def searchable(self, index: Index) -> Searchable:
        """Return an index in the form in which it is searched: by meaning too where the embedder is here."""
        return index if self.meaning is None else self.meaning.searchable(index)

    def close(self) -> None:
        """Close what has files or threads: models, indexes, logs and traces."""
        if self.meaning is not None:
            self.meaning.close()
        self.models.close()
        self.encoders.close()
        self.operations.close()
        self.indexes.close()


def services_of(http: HttpRequest) -> Services:
    """Return the parts of the server that received this request."""
    services: Services = http.app.state.services
    return services
