"""Opens URLs: certificates, proxies, log-ins, time-outs, and errors that name the remedy.

It uses the standard library's ``urllib``: the HTTP library that ``huggingface_hub`` brings differs
from one of its major versions to the next, and a few requests need no pool of connections. Knows
nothing of files or indexes. Invariants: nothing is opened while offline except ``file:`` URLs; a
log-in is sent only to the host it was given for, and never appears in a message.
"""

from __future__ import annotations

import base64
import functools
import http.client
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from types import TracebackType
from typing import IO, NamedTuple, Protocol, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from miaotui.errors import DownloadError

NETWORK_ERRORS = (OSError, http.client.HTTPException)  # all that opening and reading may raise
_SCHEMES = frozenset({"http", "https", "file"})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class Response(Protocol):
    """Open answer of a server, as far as it is used here."""

    @property
    def status(self) -> int | None:
        """HTTP status; None for a file."""

    @property
    def headers(self) -> Message:
        """Return the answer's headers."""

    @property
    def url(self) -> str:
        """Address of the answer, after redirects."""

    def read1(self, n: int = -1, /) -> bytes:
        """Return up to ``n`` bytes, as soon as there are any; empty at the end."""

    def __enter__(self) -> Response: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Remedies(NamedTuple):
    """Advice for users of one kind of server: where access is denied, the file is absent, or its digest differs."""

    denied: str
    absent: str
    other: str


PACKAGE_INDEX = Remedies(
    denied="Put a valid user name and password into the index address (PIP_INDEX_URL)",
    absent="The file is not offered there: check which package index is configured",
    other="use another package index",
)


@dataclass(frozen=True)
class UrlOpener:
    """Opener of URLs with one user's settings.

    ``logins`` maps a host (with port, if any) to ``user:password``, ``tokens`` one to a bearer token; ``timeout_s`` is
    how long a server may stand still, ``pause_s`` how long to wait before the first repeated try.
    """

    timeout_s: float = 30.0
    offline: bool = False
    pause_s: float = 0.5
    cafile: str | None = None
    logins: Mapping[str, str] = field(default_factory=dict, repr=False)
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    remedies: Remedies = PACKAGE_INDEX

    def open(self, url: str, headers: Mapping[str, str] | None = None) -> Response:
        """Return the open answer to a GET of ``url`` (http, https or file).

        Raises `DownloadError` for what no retry can mend, and the errors in `NETWORK_ERRORS`
        otherwise.
        """
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise DownloadError(f"cannot download {redact(url)}: only http, https and file addresses are supported")
        if self.offline and parts.scheme != "file":
            raise DownloadError(
                f"{redact(url)} is needed, but miaotui is offline. "
                "Unset MIAOTUI_OFFLINE (and HF_HUB_OFFLINE) to allow downloads"
            )
        headers = {"User-Agent": "miaotui", **(headers or {})}
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - scheme checked above
        if login := self.logins.get(parts.netloc):
            token = base64.b64encode(login.encode()).decode("ascii")
            request.add_unredirected_header("Authorization", f"Basic {token}")
        if bearer := self.tokens.get(parts.netloc):
            request.add_unredirected_header("Authorization", f"Bearer {bearer}")
        handler = urllib.request.HTTPSHandler(context=_tls_context(self.cafile))
        opener = urllib.request.build_opener(handler, _SameHostLogin)
        return cast(Response, opener.open(request, timeout=self.timeout_s))


def split_login(url: str) -> tuple[str, str | None]:
    """Split ``https://user:secret@host/x`` into (``https://host/x``, ``user:secret``)."""
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    return urlunsplit(parts._replace(netloc=host)), unquote(login)


def redact(url: str) -> str:
    """Return ``url`` for a message: without log-in, query (it may be signed) and fragment."""
    parts = urlsplit(split_login(url)[0])
    return urlunsplit(parts._replace(query="", fragment=""))


def is_passing(error: BaseException) -> bool:
    """Return whether trying again may help."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _PASSING
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return not isinstance(reason, (ssl.SSLCertVerificationError, FileNotFoundError, PermissionError))


def explain(error: BaseException, url: str, remedies: Remedies = PACKAGE_INDEX) -> DownloadError:
    """Return the `DownloadError` for an error of `NETWORK_ERRORS`, with the cause and the remedy."""
    where = redact(url)
    if isinstance(error, urllib.error.HTTPError):
        return DownloadError(f"{where} answered {error.code} {error.reason}. {_http_remedy(error.code, remedies)}")
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        text = f"the certificate of its server is not trusted ({reason.verify_message})"
        remedy = "Behind a company proxy, set SSL_CERT_FILE to its certificate bundle"
    elif isinstance(reason, socket.gaierror):
        text, remedy = ("its host has no address", "Check the network, or set HTTPS_PROXY if you need a proxy")
    elif isinstance(reason, TimeoutError):
        text, remedy = ("the server stood still", "Try again, or set MIAOTUI_TIMEOUT_S to wait longer")
    else:
        text, remedy = f"{reason or type(error).__name__}", "Check the network and try again"
    return DownloadError(f"cannot read {where}: {text}. {remedy}")


def _http_remedy(code: int, remedies: Remedies) -> str:
    if code in (401, 403):
        return remedies.denied
    if code == 407:
        return "Put user name and password of the proxy into HTTPS_PROXY"
    if code in (404, 410):
        return remedies.absent
    return "Try again later" if code in _PASSING else remedies.absent


class _SameHostLogin(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and repeats a log-in only to the host it was given for."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        login = req.unredirected_hdrs.get("Authorization")
        old, target = urlsplit(req.full_url), urlsplit(newurl)
        if new is not None and login and (old.scheme, old.netloc) == (target.scheme, target.netloc):
            new.add_unredirected_header("Authorization", login)
        return new


@functools.cache  # reading all of a system's certificates takes longer than many an answer
def _tls_context(cafile: str | None) -> ssl.SSLContext:
    """Return a context that trusts ``cafile`` if given, else the system, else certifi where it is installed."""
    if cafile is not None:
        try:
            return ssl.create_default_context(cafile=cafile)
        except OSError as error:
            raise DownloadError(
                f"cannot read the certificates in {cafile}: {error.strerror or error}. "
                "Correct PIP_CERT or pip's cert option"
            ) from error
    paths = ssl.get_default_verify_paths()
    context = ssl.create_default_context()
    if os.name == "posix" and paths.cafile is None and paths.capath is None:
        try:  # some builds of Python for macOS come without certificates
            import certifi  # noqa: PLC0415  (there alone)
        except ImportError:
            return context
        context.load_verify_locations(certifi.where())
    return context
