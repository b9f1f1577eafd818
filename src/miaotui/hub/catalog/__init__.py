"""The models miaotui knows by name, as data.

Owns the names, where each model comes from, its licence, and the sizes and digests that pin it. It
fetches nothing and imports nothing that does. Invariant: what comes from a package index is pinned
by SHA-256, archive and file; a model under terms that its user has to accept (``explicit``) is
fetched only by an explicit ``pull``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from miaotui.hub.catalog import chat, encoders
from miaotui.hub.catalog.entry import CatalogModel, Licence, Wheel, WheelFile

__all__ = ["CATALOG", "DEFAULT_MODEL", "CatalogModel", "Licence", "Wheel", "WheelFile"]

DEFAULT_MODEL = "smollm2-135m"

CATALOG: Mapping[str, CatalogModel] = MappingProxyType(
    {model.name: model for model in (*chat.FROM_WHEELS, *encoders.FROM_WHEELS, *chat.FROM_HUB)}
)
"""Every model with a name, those that come from package indexes first; the first is the default."""
