"""Refusals, by name and before anything runs, of what engines of other makers cannot do.

Owns their list of abilities, and adapters that are none. Knows no engine. Invariant: what is asked for is done or
refused, never left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from miaotui.engine.abilities import ModelAbilities
from miaotui.engine.adapters import Adapters, LoadedAdapter
from miaotui.errors import RequestError
from miaotui.schedule.plan import NO_ADAPTER


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


def tokens_alone(engine: str, **more: Any) -> ModelAbilities:
    """Return the abilities of an engine that is asked for tokens and nothing else; ``more`` replaces some."""
    least = ModelAbilities(
        engine=engine,
        otherwise="load the model with backend='cpu'",
        same_bytes=False,
        promises="none",
        grammar=False,
        adapters=False,
        logprobs=False,
        prompt_logprobs=False,
        logit_bias=False,
        min_tokens=False,
        explanations=False,
    )
    return replace(least, **more)
