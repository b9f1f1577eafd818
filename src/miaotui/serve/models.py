"""Models of one server, by name.

Owns the map from the ``model`` field of a request to a `ServedModel`. Knows neither files nor routes. Invariant: models
are added while the server starts and closed when it ends; the first one answers requests that name none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from miaotui.serve.http.errors import model_not_found
from miaotui.served_model import ServedModel


class ServedModels(Mapping[str, ServedModel]):
    """A read-only mapping of names to models, in the order in which they were added."""

    def __init__(self, models: Iterable[ServedModel] = ()) -> None:
        self._by_name = {model.name: model for model in models}

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
        """Return the model of that name; the first one for None. Raises `ApiError` (404)."""
        if name is None and self._by_name:
            return next(iter(self._by_name.values()))
        found = None if name is None else self._by_name.get(name)
        if found is None:
            raise model_not_found(name or "", self._by_name)
        return found

    def close(self) -> None:
        """Close every model, also after one of them failed to close."""
        for model in self._by_name.values():
            with suppress(Exception):
                model.close()
