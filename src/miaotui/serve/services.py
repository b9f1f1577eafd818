"""Parts of a running server that its handlers use, in one typed value.

Owns the list of parts. Knows neither how they are made (`start`) nor any route. Invariant: all parts exist before the
first request; a handler makes none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import Request as HttpRequest

from miaotui.retrieval.answers.cache import AnswerCache
from miaotui.serve.documents.index_registry import IndexRegistry
from miaotui.serve.encoders.registry import EncoderRegistry
from miaotui.serve.models import ServedModels
from miaotui.serve.openai.responses.store import ResponseStore
from miaotui.serve.settings import ServeSettings

if TYPE_CHECKING:
    from miaotui.apps.support import Support
    from miaotui.serve.ops.operations import Operations


@dataclass(frozen=True)
class Services:
    """The parts of one server; None stands for an optional part that this server does not have."""

    models: ServedModels
    settings: ServeSettings
    operations: Operations
    encoders: EncoderRegistry = field(default_factory=EncoderRegistry)
    indexes: IndexRegistry = field(default_factory=IndexRegistry)
    responses: ResponseStore = field(default_factory=ResponseStore)
    response_cache: AnswerCache | None = None
    support: Support | None = None

    def close(self) -> None:
        """Close what has files or threads: models, indexes, logs and traces."""
        self.models.close()
        self.encoders.close()
        self.operations.close()
        self.indexes.close()


def services_of(http: HttpRequest) -> Services:
    """Return the parts of the server that received this request."""
    services: Services = http.app.state.services
    return services
