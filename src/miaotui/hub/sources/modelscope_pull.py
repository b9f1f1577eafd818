"""Downloads models from ModelScope into the cache that its own client uses.

Owns the talk with its HTTP API: ``/api/v1/models/OWNER/NAME/repo/files`` lists files with their SHA-256, ``/repo``
sends one. Plain requests are enough, so that the library with its many dependencies is not needed. It does not choose
files (`repository`). Invariants: a file is kept only with the size and SHA-256 that the listing states, weights come
last, and the token goes to the hub's own host alone.
Source: ModelScope's client ``modelscope_hub`` 0.5 (``_legacy_api``, ``_download``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote, urlencode, urlsplit

from miaotui.config import Settings, make_folder
from miaotui.errors import DownloadError, ModelFormatError, ModelNotFoundError
from miaotui.hub.files import require_room
from miaotui.hub.formats.untrusted_json import parse_object
from miaotui.hub.sources.connection import NETWORK_ERRORS, Remedies, UrlOpener, explain, is_passing
from miaotui.hub.sources.download import RemoteFile, download
from miaotui.hub.sources.modelscope import DEFAULT_REVISION, cache_folder, snapshot_folder
from miaotui.hub.sources.repository import HubId, choose_files, located
from miaotui.types import Progress

ENDPOINT = "https://www.modelscope.cn"
MAX_LISTING_BYTES = 32 * 2**20
MAX_LISTED = 3000  # a listing of as many files has been cut by the server
TRIES = 3

_CHUNK_BYTES = 2**18
_REMEDIES = Remedies(
    denied="Accept the model's terms on its page, and set MODELSCOPE_API_TOKEN to a token of your account",
    absent="Check the model's name, revision and file on its page, and MODELSCOPE_ENDPOINT",
    other="set MODELSCOPE_ENDPOINT to another mirror, or pull the model from Hugging Face (hf:)",
)


class ListedFile(NamedTuple):
    """A file as the hub lists it; ``sha256`` is empty where the hub states none."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class ModelScope:
    """ModelScope, or a mirror of it, at ``endpoint``."""

    endpoint: str
    connection: UrlOpener

    @classmethod
    def from_env(cls, settings: Settings, env: Mapping[str, str] | None = None) -> ModelScope:
        """Read the variables that ModelScope's client documents."""
        env = os.environ if env is None else env
        named = env.get("MODELSCOPE_ENDPOINT") or env.get("MODELSCOPE_DOMAIN") or ENDPOINT
        endpoint = (named if "://" in named else f"https://{named}").rstrip("/")
        token = env.get("MODELSCOPE_API_TOKEN", "").strip()
        tokens = {urlsplit(endpoint).netloc: token} if token else {}
        return cls(endpoint, UrlOpener(settings.timeout_s, settings.offline, tokens=tokens, remedies=_REMEDIES))

    def files(self, hub_id: HubId) -> dict[str, ListedFile]:
        """Return the files of a repository by their paths. Raises `ModelNotFoundError` or `DownloadError`."""
        found = self._listing(hub_id, recursive=True)
        if len(found) >= MAX_LISTED:  # at least those of the root, where most models have all of theirs
            found |= self._listing(hub_id, recursive=False)
        return found

    def remote(self, hub_id: HubId, name: str, listed: ListedFile) -> RemoteFile:
        """Return the file ``name`` as a download."""
        query = urlencode({"Revision": hub_id.revision or DEFAULT_REVISION, "FilePath": name})
        return RemoteFile(f"{self._repository(hub_id)}?{query}", listed.size_bytes, listed.sha256, name)

    def _repository(self, hub_id: HubId) -> str:
        return f"{self.endpoint}/api/v1/models/{quote(hub_id.repo)}/repo"

    def _listing(self, hub_id: HubId, recursive: bool) -> dict[str, ListedFile]:
        query = urlencode({"Revision": hub_id.revision or DEFAULT_REVISION, "Recursive": str(recursive)})
        url = f"{self._repository(hub_id)}/files?{query}"
        answer = self._json(url, hub_id)
        data = answer.get("Data")
        entries = data.get("Files") if isinstance(data, dict) else data
        if answer.get("Success") is False or not isinstance(entries, list):
            said = str(answer.get("Message") or "no reason")[:200]
            raise DownloadError(f"ModelScope did not list the files of {hub_id}: {said}. {_REMEDIES.absent}")
        return dict(filter(None, map(_listed, entries)))

    def _json(self, url: str, hub_id: HubId) -> dict[str, Any]:
        for attempt in range(TRIES):
            if attempt:
                time.sleep(self.connection.pause_s * attempt)
            try:
                return self._read(url)
            except NETWORK_ERRORS as error:
                if isinstance(error, HTTPError) and error.code == 404:
                    raise _unknown(hub_id) from error
                if attempt + 1 == TRIES or not is_passing(error):
                    raise explain(error, url, _REMEDIES) from error
        raise AssertionError

    def _read(self, url: str) -> dict[str, Any]:
        data = bytearray()
        with self.connection.open(url, {"Accept": "application/json"}) as response:
            while chunk := response.read1(_CHUNK_BYTES):
                data += chunk
                if len(data) > MAX_LISTING_BYTES:
                    raise DownloadError(f"the listing is longer than {MAX_LISTING_BYTES:,} bytes. {_REMEDIES.absent}")
        try:
            return parse_object(bytes(data), "the hub's answer")
        except ModelFormatError as error:
            raise DownloadError(f"{error}: it is no ModelScope hub. Check MODELSCOPE_ENDPOINT") from error


def pull_repository(
    hub_id: HubId, settings: Settings, progress: Progress | None = None, hub: ModelScope | None = None
) -> Path:
    """Download the needed files of ``hub_id`` into ModelScope's cache; return the folder, or the GGUF file.

    What has come stays and is continued by the next call. Raises `ModelNotFoundError`, `UnsupportedModelError`,
    `DownloadError` or `CacheError`.
    """
    if settings.offline:
        raise DownloadError(
            f"{hub_id} is not in ModelScope's cache, and miaotui is offline. "
            "Unset MIAOTUI_OFFLINE (and HF_HUB_OFFLINE) to allow downloads"
        )
    hub = hub or ModelScope.from_env(settings)
    files = hub.files(hub_id)
    chosen = choose_files(files, hub_id)
    unstated = [name for name in chosen if not files[name].sha256]
    if unstated:
        raise DownloadError(f"ModelScope states no SHA-256 of {', '.join(unstated[:8])} of {hub_id}. Try again later")
    snapshot = make_folder(snapshot_folder(cache_folder(), hub_id))
    require_room(snapshot, sum(files[name].size_bytes for name in chosen if not (snapshot / name).exists()))
    report = progress or (lambda _label, _done, _total: None)
    total, done = sum(files[name].size_bytes for name in chosen), 0
    for name in chosen:

        def shifted(_label: str, now: int, _total: int | None, base: int = done) -> None:
            report(f"downloading {hub_id.repo}", base + now, total)

        download(hub.remote(hub_id, name, files[name]), snapshot / name, hub.connection, shifted)
        done += files[name].size_bytes
        report(f"downloading {hub_id.repo}", done, total)
    return located(snapshot, chosen)


def _listed(entry: object) -> tuple[str, ListedFile] | None:
    """Return an entry of a listing; None for folders, and for paths that lead out of the repository."""
    if not isinstance(entry, dict) or entry.get("Type") == "tree":
        return None
    path, size, digest = entry.get("Path"), entry.get("Size"), entry.get("Sha256") or ""
    if not isinstance(path, str) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        return None
    parts = PurePosixPath(path).parts
    if (
        not parts
        or path.startswith("/")
        or ".." in parts
        or any(mark in path for mark in "\\:\0")
        or path != "/".join(parts)
    ):
        return None
    is_digest = isinstance(digest, str) and len(digest) == 64 and set(digest.lower()) <= set("0123456789abcdef")
    return path, ListedFile(size, digest.lower() if is_digest else "")


def _unknown(hub_id: HubId) -> ModelNotFoundError:
    revision = f" at revision {hub_id.revision}" if hub_id.revision else ""
    return ModelNotFoundError(
        f"there is no ModelScope repository {hub_id.repo}{revision}, or it is private. Check the spelling; for a "
        "private one set MODELSCOPE_API_TOKEN"
    )
