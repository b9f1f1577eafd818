"""A stand-in for ModelScope on the loopback interface: its listing of files, its downloads, its refusals.

The forms are those that ModelScope's own client reads (``modelscope_hub`` 0.5); ``test_modelscope.py`` lets that client
download from here too, where it is installed.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from loopback import running, sha256


@dataclass
class HubRequest:
    """One request: its path, its query, its headers (lower case)."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class HubFaults:
    """Faults of the next answers: by path in the repository, or "" for the listing."""

    statuses: dict[str, list[int]] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)  # bytes after which an answer ends
    digests: dict[str, str] = field(default_factory=dict)  # other digests than those of the files
    lengths: dict[str, int] = field(default_factory=dict)  # other sizes than those of the files
    sends: dict[str, bytes] = field(default_factory=dict)  # other bytes than those listed
    redirect: str = ""  # another server, to which downloads are sent
    token: str = ""  # that a gated repository wants
    listing: bytes | None = None


class ModelScopeStandIn(ThreadingHTTPServer):
    """The server; ``repositories`` maps ``owner/name`` to files."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.extra: list[dict[str, object]] = []
        self.faults = HubFaults()
        self.requests: list[HubRequest] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def downloads(self, name: str) -> list[HubRequest]:
        return [request for request in self.requests if request.query.get("FilePath") == name]


def modelscope_serving() -> AbstractContextManager[ModelScopeStandIn]:
    """Run a server for the length of the block."""
    return running(ModelScopeStandIn())


class _Handler(BaseHTTPRequestHandler):
    server: ModelScopeStandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def _answer(self, with_body: bool) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append(HubRequest(parts.path, query, headers))
        repo, _, rest = parts.path.removeprefix("/api/v1/models/").partition("/repo")
        files, faults = self.server.repositories.get(repo), self.server.faults
        name = query.get("FilePath", "") if rest != "/files" else ""
        if parts.path.startswith("/storage/"):
            self._file(parts.path.removeprefix("/storage/"), headers, with_body)
        elif faults.statuses.get(name):
            self._json(faults.statuses[name].pop(0), {"Code": 10010200000, "Success": False, "Message": "no"})
        elif faults.token and headers.get("authorization") != f"Bearer {faults.token}":
            self._json(401 if "authorization" not in headers else 403, {"Success": False, "Message": "gated"})
        elif files is None or (not rest and not name):
            self._json(404, {"Code": 10010205001, "Success": False, "Message": "record not found"})
        elif rest == "/files":
            self._listing(files)
        elif faults.redirect:
            self._head(302, {"Location": f"{faults.redirect}/storage/{name}", "Content-Length": "0"})
        else:
            self._file(name, headers, with_body)

    def _listing(self, files: dict[str, bytes]) -> None:
        faults = self.server.faults
        if faults.listing is not None:
            self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(faults.listing))})
            self.wfile.write(faults.listing)
            return
        entries: list[dict[str, object]] = [{"Name": "folder", "Path": "folder", "Type": "tree", "Size": 0}]
        for path, data in files.items():
            size, digest = faults.lengths.get(path, len(data)), faults.digests.get(path, sha256(data))
            name = path.rpartition("/")[2]
            entries.append({"Name": name, "Path": path, "Type": "blob", "Size": size, "Sha256": digest})
        self._json(200, {"Code": 200, "Success": True, "Data": {"Files": entries + self.server.extra}})

    def _file(self, name: str, headers: dict[str, str], with_body: bool) -> None:
        faults = self.server.faults
        everything = {path: data for files in self.server.repositories.values() for path, data in files.items()}
        data = faults.sends.get(name, everything.get(name))
        if data is None:
            self._json(404, {"Code": 404, "Success": False, "Message": "no such file"})
            return
        first, _, last = headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, stop = int(first), int(last) + 1 if last else len(data)
        ranged = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"} if "range" in headers else {}
        body = data[start:stop]
        self._head(206 if ranged else 200, {"Content-Length": str(len(body)), **ranged})
        if faults.cut.get(name):
            body = body[: faults.cut[name].pop(0)]
            self.close_connection = True
        if with_body:
            self.wfile.write(body)

    def _json(self, status: int, value: dict[str, object]) -> None:
        text = json.dumps(value).encode()
        self._head(status, {"Content-Type": "application/json", "Content-Length": str(len(text))})
        if self.command != "HEAD":
            self.wfile.write(text)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
