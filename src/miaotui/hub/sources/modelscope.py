"""Models in ModelScope repositories: which of them are here already.

ModelScope's client has kept repositories in several ways: ``models/owner--name/snapshots/revision`` today, folders
``owner/name`` in ``models``, ``hub/models`` or ``hub`` before, where a dot in a name was written ``___``. All are
found, without a connection. It does not choose files (`repository`) and does not download (`modelscope_pull`).
Invariant: a local copy counts only when all files chosen, shards and parts included, are there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from miaotui.hub.sources.repository import HubId, in_snapshot

DEFAULT_REVISION = "master"
DOT = "___"
MAX_REPOSITORIES = 10_000

_OLD = ("models", "hub/models", "hub", ".")
_NOT_OWNERS = frozenset({"models", "datasets", "hub", "ast_indexer", "studios", "skills"})


def cache_folder(env: Mapping[str, str] | None = None) -> Path:
    """Return the cache of ModelScope's client, by the variable it documents."""
    env = os.environ if env is None else env
    if named := env.get("MODELSCOPE_CACHE"):
        return Path(named).expanduser()
    return Path(env.get("HOME") or env.get("USERPROFILE") or Path.home()) / ".cache" / "modelscope"


def snapshot_folder(cache: Path, hub_id: HubId) -> Path:
    """Return the folder in which the client keeps a revision of a repository today."""
    owner, name = hub_id.repo.split("/")
    return cache / "models" / f"{owner}--{name}" / "snapshots" / (hub_id.revision or DEFAULT_REVISION)


def find_local(hub_id: HubId, cache: Path | None = None) -> Path | None:
    """Return the folder or GGUF file of ``hub_id`` in the cache; None if it is not all there."""
    cache = cache or cache_folder()
    if re.fullmatch(r"[\w.-]*", hub_id.revision) is None:
        return None
    places = [snapshot_folder(cache, hub_id)]
    if not hub_id.revision:
        owner, name = hub_id.repo.split("/")
        places += [cache / old / owner / spelled for old in _OLD for spelled in (name, name.replace(".", DOT))]
    found = (in_snapshot(place, hub_id) for place in places if place.is_dir())
    return next((path for path in found if path is not None), None)


def cached_repositories(cache: Path) -> Iterator[tuple[str, Path]]:
    """Yield (``owner/name``, folder of its files) of each repository in the cache, in each way of keeping them."""
    seen: set[str] = set()
    for repo, folder in _all_repositories(cache):
        if repo not in seen and len(seen) < MAX_REPOSITORIES and folder.is_dir():
            seen.add(repo)
            yield repo, folder


def _all_repositories(cache: Path) -> Iterator[tuple[str, Path]]:
    for folder in sorted(cache.glob("models/*--*")):
        snapshots = sorted(path for path in folder.glob("snapshots/*") if path.is_dir())
        named = [path for path in snapshots if path.name == DEFAULT_REVISION] or snapshots
        if named:
            yield folder.name.replace("--", "/", 1), named[0]
    for old in _OLD:
        for folder in sorted(cache.glob(f"{old}/*/*")):
            owner = folder.parent.name
            if owner not in _NOT_OWNERS and "--" not in owner and not owner.startswith(("_", ".")):
                yield f"{owner}/{folder.name.replace(DOT, '.')}", folder
