"""The hubs that have repositories of models, by name: which one an id means, what is here of it, and its download.

Owns the prefixes ``hf:`` and ``ms:`` and the meaning of an id without one (``MIAOTUI_HUB``). Knows neither layouts of
caches nor protocols. Invariant: what downloads is imported only when something is downloaded.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from miaotui.config import Settings
from miaotui.hub.sources.repository import HubId
from miaotui.types import Progress

PREFIXES = {"hf": "huggingface", "ms": "modelscope"}
TITLES = {"huggingface": "Hugging Face", "modelscope": "ModelScope"}


class HubModel(NamedTuple):
    """A repository on a hub. ``named``: its name says which hub; otherwise a copy from any hub will do."""

    hub: str
    hub_id: HubId
    named: bool = False

    def __str__(self) -> str:
        prefix = next(prefix for prefix, hub in PREFIXES.items() if hub == self.hub)
        return f"{prefix}:{self.hub_id}" if self.named else str(self.hub_id)

    def local(self) -> Path | None:
        """Return the model's path on this computer; None if it is not all here."""
        hubs = [self.hub] + ([] if self.named else [hub for hub in TITLES if hub != self.hub])
        found = (import_module(f"miaotui.hub.sources.{hub}").find_local(self.hub_id) for hub in hubs)
        return next((path for path in found if path is not None), None)

    def pull(self, settings: Settings, progress: Progress | None = None) -> Path:
        """Download the model; raises a `ModelError`, `DownloadError` or `CacheError`."""
        module = import_module(f"miaotui.hub.sources.{self.hub}_pull")
        path: Path = module.pull_repository(self.hub_id, settings, progress)
        return path


def parse_hub_model(text: str, default_hub: str) -> HubModel | None:
    """Return the repository that ``text`` names, ``[hf:|ms:]owner/name…``; None if it is not of that form."""
    prefix, colon, rest = text.partition(":")
    hub = PREFIXES.get(prefix.lower()) if colon else None
    hub_id = HubId.parse(rest if hub else text)
    return None if hub_id is None else HubModel(hub or default_hub, hub_id, named=hub is not None)
