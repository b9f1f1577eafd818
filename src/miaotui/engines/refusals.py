"""Refusals, by name and before anything runs, of what engines of other makers cannot do.

Owns the checks and their errors. Knows no engine. Invariant: what is asked for is done or refused, never left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from miaotui.engine.adapters import Adapters, LoadedAdapter
from miaotui.engine.request import RequestOptions
from miaotui.errors import RequestError
from miaotui.schedule.plan import NO_ADAPTER
from miaotui.types import SamplingParams


class NoAdapters(Adapters):
    """The adapters of an engine that takes none. ``engine`` names it in errors."""

    def __init__(self, engine: str) -> None:
        self._engine = engine

    def __getitem__(self, name: str) -> LoadedAdapter:
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def number_of(self, adapter: LoadedAdapter | str | None) -> int:
        """Return the number of no adapter. Raises `RequestError` for any other."""
        if adapter is not None:
            raise self._refusal()
        return NO_ADAPTER

    def load(self, name: str, path: Path) -> LoadedAdapter:
        """Raise `RequestError`."""
        raise self._refusal()

    def unload(self, name: str) -> None:
        """Raise `RequestError`."""
        raise self._refusal()

    def _refusal(self) -> RequestError:
        return RequestError(f"{self._engine} takes no adapters here: merge it into the model (`miaotui merge-adapter`)")


def refuse_what_lacks(engine: str, params: SamplingParams, options: RequestOptions) -> None:
    """Raise `RequestError` for what no engine of another maker is asked for here."""
    asked: Mapping[str, bool] = {
        "grammars, schemas and tools that must be followed": options.constraint is not None,
        "log-probabilities": params.logprobs is not None or bool(params.logprob_token_ids),
        "logit_bias": bool(params.logit_bias),
        "min_tokens": bool(params.min_tokens),
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise RequestError(f"{engine} has no {name} here: leave it out, or load the model with backend='cpu'")
