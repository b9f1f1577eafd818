"""Partition on another host: the two questions of a search, asked over HTTP.

Owns the requests and the reading of replies, which are hostile until checked. Knows nothing of merging. Invariant: a
call ends within its timeout, with an answer of bounded size or one `DocumentIndexError`; redirects are not followed.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from miaotui.errors import DocumentIndexError, RequestError
from miaotui.retrieval.document import Document
from miaotui.retrieval.index.snapshot import Found
from miaotui.retrieval.index.statistics import Statistics
from miaotui.retrieval.query.compiler import Ranked

MAX_ANSWER_BYTES = 64_000_000
_KEY = "MIAOTUI_API_KEY"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Refuse a redirect: the key must not travel elsewhere."""


class RemotePart:
    """Index on another host as a partition; ``url`` is its ``…/v1/indexes/NAME``.

    Its key, where it wants one, is in ``MIAOTUI_API_KEY``. Raises `RequestError` for a URL that is not http or https.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise RequestError(f"{url!r:.200} is no URL of an index; write http://HOST/v1/indexes/NAME")
        self._url, self._timeout_s = url.rstrip("/"), timeout_s
        self._opener = urllib.request.build_opener(_NoRedirect)

    def statistics(self, ranked: Ranked) -> Statistics:
        """Return the other index's share of the statistics."""
        return Statistics.from_json(self._ask("statistics", {}, ranked))

    def search(self, ranked: Ranked, whole: Statistics | None, limit: int) -> list[Found]:
        """Return the other index's best passages under the whole collection's statistics."""
        more = {"limit": limit, "statistics": whole.to_json() if whole else None}
        answer = self._ask("passages", more, ranked)
        try:
            return [(float(row["score"]), Document.from_mapping(row["passage"])) for row in answer["found"][:limit]]
        except (TypeError, KeyError, ValueError, RequestError) as error:
            raise DocumentIndexError(f"{self._url} sent passages that cannot be read") from error

    def _read(self, answer: Any) -> bytes:
        """Read the body within the time limit. The socket's timeout is for each piece alone."""
        until, data = time.monotonic() + self._timeout_s, bytearray()
        while piece := answer.read1(1 << 20):
            data += piece
            if len(data) > MAX_ANSWER_BYTES:
                raise DocumentIndexError(f"{self._url} sent more than {MAX_ANSWER_BYTES:,} bytes")
            if time.monotonic() > until:
                raise DocumentIndexError(f"{self._url} answers too slowly")
        return bytes(data)

    def _ask(self, what: str, more: dict[str, Any], ranked: Ranked) -> Any:
        analyzer = ranked.analyzer.language
        body = {
            "query": ranked.text,
            "plain": ranked.plain,
            "language": analyzer,
            "weights": dict(ranked.weights),
            **more,
        }
        headers = {"Content-Type": "application/json"}
        if os.environ.get(_KEY):
            headers["Authorization"] = f"Bearer {os.environ[_KEY]}"
        request = urllib.request.Request(  # noqa: S310  (the scheme was checked)
            f"{self._url}/partition/{what}", json.dumps(body).encode(), headers
        )
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                data = self._read(answer)
        except urllib.error.HTTPError as error:
            raise DocumentIndexError(f"{self._url} answered with status {error.code}") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise DocumentIndexError(f"{self._url} cannot be reached: {reason}") from error
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise DocumentIndexError(f"{self._url} sent something that is not JSON") from error
