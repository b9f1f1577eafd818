"""Allowance of a caller: the models and shared data that it may use, and how much it may keep.

Owns the values and the questions asked of them. Knows neither files nor HTTP. Invariant: a name that is not allowed
looks to the caller like one that does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Allowance:
    """Names and sizes that one caller is allowed. None: all that the server has.

    ``adapters`` are pairs: the name by which the caller asks, and the name by which the server loaded the adapter.
    ``indexes``, ``graphs`` and ``recommenders`` are those that the operator made for several callers.
    """

    models: frozenset[str] | None = None
    adapters: tuple[tuple[str, str], ...] | None = None
    indexes: frozenset[str] | None = None
    graphs: frozenset[str] | None = None
    recommenders: frozenset[str] | None = None
    index_bytes: int | None = None  # of all of its own indexes, on disk
    index_count: int | None = None
    is_tenant: bool = False  # whether others share this server, who must not see each other's metrics

    def allows_model(self, name: str) -> bool:
        """Return whether a model, encoder, head or group of tiers may be used."""
        return self.models is None or name in self.models

    def allows_index(self, name: str) -> bool:
        """Return whether a shared index may be searched."""
        return self.indexes is None or name in self.indexes

    def adapter_names(self, loaded: tuple[str, ...]) -> dict[str, str]:
        """Return the server's names of the adapters that may be used, by the caller's own; ``loaded`` are all."""
        if self.adapters is None:
            return {name: name for name in loaded}
        return {own: name for own, name in self.adapters if name in loaded}


EVERYTHING = Allowance()
