"""``GET /``, ``/monitor`` and ``/console/{name}``: the console, a page that talks with this server alone.

Owns the built files, their headers and their policy; knows nothing of what the page does. Invariants: what is served
is in the folder ``built`` and was read once; the page may run its own files and ask its own server, and nothing else
(no inline script or style, no policy of trusted types). Sources: W3C, "Content Security Policy Level 3" and "Trusted
Types"; RFC 9110, section 13.1.2 (``If-None-Match``).
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.serve.http.errors import ApiError
from miaotui.serve.http.routing import Endpoint

BUILT = Path(__file__).with_name("built")
MAIN_PAGE = "index.html"
PAGE_PATHS = ("/", "/monitor")
FILES_PREFIX = "/console/"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept-Encoding",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_KEPT = "public, max-age=31536000, immutable"  # their names hold a digest of what is in them
_ASKED = "no-cache"  # kept, but asked for again each time: the page names the newest files


@dataclass(frozen=True)
class ConsoleFile:
    """One file of the console."""

    name: str
    content: bytes

    @cached_property
    def etag(self) -> str:
        """Return the name of this content."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'

    @cached_property
    def compressed(self) -> bytes:
        """Return the content in gzip's form; equal contents give equal bytes."""
        return gzip.compress(self.content, 9, mtime=0)

    def respond(self, headers: Mapping[str, str]) -> Response:
        """Return the answer to a request with these headers: the file, or that the client has it."""
        is_named = self.name not in (MAIN_PAGE, "LICENSES.txt")
        common = {**_HEADERS, "ETag": self.etag, "Cache-Control": _KEPT if is_named else _ASKED}
        known = [tag.strip().removeprefix("W/") for tag in headers.get("if-none-match", "").split(",")]
        if self.etag in known or "*" in known:
            return Response(None, 304, common)
        media_type = _TYPES[Path(self.name).suffix]
        if not _takes_gzip(headers.get("accept-encoding", "")):
            return Response(self.content, headers=common, media_type=media_type)
        return Response(self.compressed, headers={**common, "Content-Encoding": "gzip"}, media_type=media_type)


def read_files(folder: Path = BUILT) -> dict[str, ConsoleFile]:
    """Return the files of a built console by their names."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in _TYPES)
    return {path.name: ConsoleFile(path.name, path.read_bytes()) for path in paths}


def open_paths(folder: Path = BUILT) -> frozenset[str]:
    """Return the paths that a browser asks for before it can show a key; none of them holds anything of a caller."""
    names = (path.name for path in folder.iterdir() if path.suffix in _TYPES and path.name != MAIN_PAGE)
    return frozenset({*PAGE_PATHS, *(FILES_PREFIX + name for name in names)})


def routes() -> list[Endpoint]:
    """Return the routes of the console."""
    files = read_files()

    async def show_page(http: HttpRequest) -> Response:
        return files[MAIN_PAGE].respond(http.headers)

    async def show_file(http: HttpRequest) -> Response:
        found = files.get(http.path_params["name"])
        if found is None or found.name == MAIN_PAGE:
            raise ApiError(404, "The console has no such file; reload the page", code="not_found")
        return found.respond(http.headers)

    named = {"name": "The file's name, which holds a digest of its content."}
    pages = [
        Endpoint(path, "GET", show_page, text, media_type="text/html", open=True)
        for path, text in zip(PAGE_PATHS, ("Show the console", "Show the console's live page"), strict=True)
    ]
    return [
        *pages,
        Endpoint(
            FILES_PREFIX + "{name}",
            "GET",
            show_file,
            "Give a file of the console",
            media_type="text/javascript",
            open=True,
            parameters=named,
        ),
    ]


def _takes_gzip(accepted: str) -> bool:
    """Return whether an ``Accept-Encoding`` allows gzip."""
    for part in accepted.lower().split(","):
        coding, _, weight = part.replace(" ", "").partition(";q=")
        if coding in ("gzip", "*"):
            return weight.rstrip("0.") != "" or not weight
    return False
