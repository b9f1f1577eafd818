"""Finds files of projects on package indexes.

Owns the simple repository API: JSON (PEP 691) where the index speaks it, HTML (PEP 503) otherwise.
It downloads nothing but the project's page and trusts it for nothing but an address. Invariant:
pages are bounded in size, and a page from the web never leads to a local file.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from miaotui.errors import DownloadError
from miaotui.hub.sources.connection import NETWORK_ERRORS, UrlOpener, explain, is_passing, redact
from miaotui.hub.sources.pip_config import PackageIndexes

MAX_PAGE_BYTES = 32 * 2**20
_TRIES = 3
_CHUNK_BYTES = 2**18
_API = "application/vnd.pypi.simple.v1"
_ACCEPT = f"{_API}+json, {_API}+html;q=0.2, text/html;q=0.1"
_HASH = re.compile(r"sha256=([0-9a-fA-F]{64})")


@dataclass(frozen=True)
class Link:
    """A file an index offers; ``sha256`` is None where the index does not say."""

    url: str
    filename: str
    sha256: str | None


def find_file(project: str, filename: str, sha256: str, indexes: PackageIndexes) -> Link:
    """Return the link to ``filename`` of ``project`` on the first index that offers it.

    An index that offers other bytes under that name is passed over. Raises `DownloadError` naming
    the indexes asked.
    """
    if not indexes.urls:
        raise DownloadError(
            f"{filename} is needed, but pip is configured to ask no index (no-index), and the file "
            "is in no find-links folder. Put it there, or configure an index"
        )
    failures = []
    for index in indexes.urls:
        try:
            found = [link for link in project_links(index, project, indexes.connection) if link.filename == filename]
        except DownloadError as error:
            failures.append(str(error))
            continue
        for link in found:
            if link.sha256 in (None, sha256):
                return link
        failures.append(f"{redact(index)} offers {'another file of that name' if found else 'no such file'}")
    raise DownloadError(
        f"no package index has {filename} (SHA-256 {sha256}): {'; '.join(failures)}. "
        "Set PIP_INDEX_URL to an index that carries it"
    )


def project_links(index: str, project: str, connection: UrlOpener) -> list[Link]:
    """Return the files that ``index`` lists for ``project``; empty when it does not know the project."""
    url = f"{index}/{re.sub(r'[-_.]+', '-', project).lower()}/"
    if url.startswith("file:"):
        url += "index.html"
    page = _read_page(url, connection)
    if page is None:
        return []
    text, kind, base = page
    links = _json_links(text, base) if "json" in kind else _html_links(text, base)
    from_disk = base.startswith("file:")
    return [link for link in links if from_disk or not link.url.startswith("file:")]


def _read_page(url: str, connection: UrlOpener) -> tuple[str, str, str] | None:
    """Return (text, content type, address after redirects); None where there is no such page."""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(connection.pause_s * attempt)
        try:
            return _read_once(url, connection)
        except NETWORK_ERRORS as error:
            if _is_absent(error):
                return None
            if attempt + 1 == _TRIES or not is_passing(error):
                raise explain(error, url) from error
    return None


def _read_once(url: str, connection: UrlOpener) -> tuple[str, str, str]:
    data = bytearray()
    with connection.open(url, {"Accept": _ACCEPT}) as response:
        while chunk := response.read1(_CHUNK_BYTES):
            data += chunk
            if len(data) > MAX_PAGE_BYTES:
                raise DownloadError(
                    f"{redact(url)} is longer than {MAX_PAGE_BYTES:,} bytes: no index page. Check PIP_INDEX_URL"
                )
        kind = response.headers.get("Content-Type") or ""
        return data.decode("utf-8", "replace"), kind, response.url


def _is_absent(error: BaseException) -> bool:
    if isinstance(error, HTTPError):
        return error.code in (404, 410)
    return isinstance(error, URLError) and isinstance(error.reason, FileNotFoundError)


def _json_links(text: str, base: str) -> Iterator[Link]:
    try:
        files = json.loads(text)["files"]
        for file in files:
            hashes = file.get("hashes") or {}
            digest = hashes.get("sha256")
            yield Link(urljoin(base, file["url"]), file["filename"], digest.lower() if digest else None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DownloadError(
            f"{redact(base)} is not a package index page ({type(error).__name__}: {error}). Check PIP_INDEX_URL"
        ) from error


def _html_links(text: str, base: str) -> Iterator[Link]:
    page = _Anchors()
    with contextlib.suppress(AssertionError):  # what some versions of Python say to "<![2"
        page.feed(text)
    base = urljoin(base, page.base)
    for href in page.hrefs:
        url, fragment = urldefrag(urljoin(base, href))
        digest = _HASH.search(fragment)
        name = unquote(urlsplit(url).path.rpartition("/")[2])
        yield Link(url, name, digest[1].lower() if digest else None)


class _Anchors(HTMLParser):
    """Collects the addresses of an HTML page, and the base they are relative to."""

    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record ``<a href>`` and ``<base href>``."""
        href = dict(attrs).get("href")
        if href and tag == "a":
            self.hrefs.append(href)
        elif href and tag == "base":
            self.base = href
