"""The catalog itself: every entry by its name.

Owns the order of the entries. Knows no file and no network. Invariant: the first one is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from miaotui.hub.catalog import chat, encoders, speech, translation
from miaotui.hub.catalog.entry import CatalogModel

CATALOG: Mapping[str, CatalogModel] = MappingProxyType(
    {
        m.name: m
        for m in (
            *chat.FROM_WHEELS,
            *encoders.FROM_WHEELS,
            *speech.FROM_WHEELS,
            *translation.FROM_WHEELS,
            *chat.FROM_HUB,
        )
    }
)
"""Every model with a name, those that come from package indexes first; the first is the default."""
