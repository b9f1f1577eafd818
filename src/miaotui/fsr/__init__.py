"""Fast sequence retrieval: find the passage, find the answer, guess the next tokens.

Owns the index over documents, the drafts made from text already seen, and the cache of answers
already given. Knows neither HTTP nor the applications. Invariant: nothing here changes what the
model would say; it changes what the model reads and how soon it is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miaotui.fsr.document import Document as Document
    from miaotui.fsr.document import Hit as Hit
    from miaotui.fsr.document import Results as Results
    from miaotui.fsr.index import Index as Index
    from miaotui.fsr.plan import Plan as Plan

_HOMES = {"Document": "document", "Hit": "document", "Results": "document"}
_HOMES |= {"Index": "index", "Plan": "plan"}

__all__ = ["Document", "Hit", "Index", "Plan", "Results"]


def __getattr__(name: str) -> object:
    """The public names, loaded when first used: drafts do not need the index, nor the reverse."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  (only here)

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
