"""The models miaotui knows by name, as data.

Owns the names, where each model comes from, its licence, and the sizes and digests that pin it. It
fetches nothing and imports nothing that does. Invariant: what comes from a package index is pinned
by SHA-256, archive and file; a model under terms that its user has to accept (``explicit``) is
fetched only by an explicit ``pull``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miaotui.hub.catalog.entry import CatalogModel, Licence, Wheel, WheelFile
    from miaotui.hub.catalog.models import CATALOG

__all__ = ["CATALOG", "DEFAULT_MODEL", "CatalogModel", "Licence", "Wheel", "WheelFile"]

DEFAULT_MODEL = "smollm2-135m"


def __getattr__(name: str) -> Any:
    """Import the entries when one is first asked for: the help needs the default's name alone."""
    if name not in __all__:
        raise AttributeError(f"module 'miaotui.hub.catalog' has no attribute {name!r}")
    from miaotui.hub.catalog import entry, models  # noqa: PLC0415  (see above)

    found = globals()[name] = models.CATALOG if name == "CATALOG" else getattr(entry, name)
    return found
