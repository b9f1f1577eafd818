"""Fast sequence retrieval: document search, and the cache of answers already given.

Owns the index over documents and the answer cache. Knows neither HTTP nor the applications. Invariant: nothing here
changes what the model says; it changes what the model reads and how soon an answer is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miaotui.retrieval.document import Document as Document
    from miaotui.retrieval.document import Hit as Hit
    from miaotui.retrieval.document import Results as Results
    from miaotui.retrieval.index.index import Index as Index
    from miaotui.retrieval.index.settings import IndexSettings as IndexSettings

_HOMES = {"Document": "document", "Hit": "document", "Results": "document"}
_HOMES |= {"Index": "index.index", "IndexSettings": "index.settings"}

__all__ = ["Document", "Hit", "Index", "IndexSettings", "Results"]


def __getattr__(name: str) -> object:
    """Load the public names when they are first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  (only here)

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
