"""Models in Hugging Face repositories: which of them are here already.

What other programs have put into the shared cache is found by its documented layout (``models--owner--name/refs`` and
``/snapshots``), without a connection and without importing ``huggingface_hub``. It does not choose files
(`repository`) and does not download (`huggingface_pull`). Invariant: a local copy counts only when all files chosen,
shards and parts included, are there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from miaotui.hub.sources.repository import HubId, in_snapshot

DEFAULT_REVISION = "main"


def find_local(hub_id: HubId, cache: Path | None = None) -> Path | None:
    """Return the folder or GGUF file of ``hub_id`` in the shared cache; None if it is not all there."""
    snapshot = snapshot_of(repository_folder(cache or cache_folder(), hub_id.repo), hub_id.revision)
    return in_snapshot(snapshot, hub_id) if snapshot is not None else None


def repository_folder(cache: Path, repo: str) -> Path:
    """Return the folder of the repository ``owner/name`` in a cache."""
    return cache / f"models--{repo.replace('/', '--')}"


def snapshot_of(folder: Path, revision: str = "") -> Path | None:
    """Return the folder of a branch, tag or commit in a repository's folder; None for a name that is none."""
    revision = revision or DEFAULT_REVISION
    try:
        commit = (folder / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        commit = revision
    return folder / "snapshots" / commit if re.fullmatch(r"\w+", commit) else None


def cache_folder(env: Mapping[str, str] | None = None) -> Path:
    """Return the cache shared by all users of ``huggingface_hub``, by the variables it documents."""
    env = os.environ if env is None else env
    if hub := env.get("HF_HUB_CACHE"):
        return Path(hub).expanduser()
    if home := env.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    base = env.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "huggingface" / "hub"
