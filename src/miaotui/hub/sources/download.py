"""Downloads one file of known size and digest: resumed where it stopped, checked whole, renamed
once.

Owns the partial file and the retries. It does not know where files come from (`wheels`), how a URL
is opened (`connection`) or how disks fail (`files`). Invariant: ``target`` exists only with the
right digest, whatever servers, crashes and other processes do. A partial file is continued with
HTTP Range (RFC 9110, section 14); the digest of the whole decides whether the parts fitted.
"""

from __future__ import annotations

import re
import time
import urllib.error
from dataclasses import dataclass
from pathlib import Path

from miaotui.config import make_folder
from miaotui.errors import CacheError, DownloadError
from miaotui.hub.files import Sink, file_size, matches, remove, replace, require_room
from miaotui.hub.lock import exclusive
from miaotui.hub.sources.connection import NETWORK_ERRORS, Response, UrlOpener, explain, is_passing, redact
from miaotui.types import Progress

__all__ = ["Progress", "RemoteFile", "download"]

PART_SUFFIX = ".part"
CHUNK_BYTES = 2**18
MAX_FRUITLESS = 4  # tries in a row that brought nothing
MAX_TRIES = 100
REPORT_EVERY_S = 0.05


@dataclass(frozen=True)
class RemoteFile:
    """A file elsewhere, of known size and SHA-256 (64 hex digits); ``label`` names it."""

    url: str
    size_bytes: int
    sha256: str
    label: str


def download(file: RemoteFile, target: Path, connection: UrlOpener, progress: Progress | None = None) -> Path:
    """Download ``file`` to ``target`` and return it; do nothing when it is there already.

    Of several processes one downloads, the others wait and use its file. Raises `DownloadError`
    when it cannot be had (what has come so far stays for the next call), `CacheError` when it
    cannot be written (nothing stays).
    """
    report = progress or _silent
    folder = make_folder(target.parent)
    with exclusive(
        folder / f".{target.name}.lock", lambda: report(f"{file.label} (in another process)", 0, file.size_bytes)
    ):
        if not matches(target, file.size_bytes, file.sha256):
            _bring(_Download(file, target.with_name(target.name + PART_SUFFIX), connection, report), target)
    return target


@dataclass(frozen=True)
class _Download:
    file: RemoteFile
    part: Path
    connection: UrlOpener
    report: Progress

    def is_right(self) -> bool:
        return matches(self.part, self.file.size_bytes, self.file.sha256)


def _bring(job: _Download, target: Path) -> None:
    resumed = file_size(job.part) > 0
    try:
        _fill(job)
        if resumed and not job.is_right():
            remove(job.part)  # it was begun from another file: once more, from the start
            _fill(job)
        if not job.is_right():
            remove(job.part)
            raise DownloadError(
                f"{redact(job.file.url)} is not the expected file (SHA-256 {job.file.sha256}). "
                f"Try again; if it repeats, the server or a proxy changes the file: {job.connection.remedies.other}"
            )
        replace(job.part, target)
    except CacheError:
        remove(job.part)
        raise


def _fill(job: _Download) -> None:
    """Download until the partial file has its full size, in a bounded number of tries."""
    fruitless = 0
    for _ in range(MAX_TRIES):
        have = file_size(job.part)
        error: BaseException = ConnectionError("the connection ended early")
        try:
            _append(job)
        except NETWORK_ERRORS as caught:
            if not is_passing(caught):
                raise explain(caught, job.file.url, job.connection.remedies) from caught
            error = caught
        now = file_size(job.part)
        if now == job.file.size_bytes:
            return
        fruitless = 0 if now > have else fruitless + 1
        if fruitless == MAX_FRUITLESS:
            raise explain(error, job.file.url, job.connection.remedies) from error
        time.sleep(job.connection.pause_s * 2**fruitless)
    raise DownloadError(f"{redact(job.file.url)} broke off {MAX_TRIES} times. Try again later")


def _append(job: _Download) -> None:
    """Make one request: continue the partial file, or start it anew when the server does not resume."""
    have, size = file_size(job.part), job.file.size_bytes
    if have == size:
        return
    if have > size:
        remove(job.part)
        have = 0
    require_room(job.part.parent, size - have)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = job.connection.open(job.file.url, headers)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            remove(job.part)  # the server's file ends before ours: ours was of another file
            raise ConnectionError("the server cannot continue the partial file") from error
        raise
    with response:
        start = _start(response, have)
        length = response.headers.get("Content-Length") or ""
        if length.isdecimal() and start + int(length) != size:
            raise _wrong_size(job, start + int(length))
        _copy(job, response, start)


def _start(response: Response, asked: int) -> int:
    """Return the offset of the answer's bytes: the one requested, or 0 when the server sends all."""
    if response.status != 206:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
    if found is None or int(found[1]) != asked:
        raise ConnectionError("the server sent another range than the one asked for")
    return asked


def _copy(job: _Download, response: Response, start: int) -> None:
    """Write the answer at ``start`` of the partial file; stops at the first byte too many."""
    done, size = start, job.file.size_bytes
    with Sink(job.part, size, start) as sink:
        job.report(job.file.label, done, size)
        next_report = time.monotonic() + REPORT_EVERY_S
        while chunk := response.read1(CHUNK_BYTES):
            done += len(chunk)
            if done > size:
                raise _wrong_size(job, done)
            sink.write(chunk)
            if time.monotonic() >= next_report or done == size:
                job.report(job.file.label, done, size)
                next_report = time.monotonic() + REPORT_EVERY_S
        sink.sync()


def _wrong_size(job: _Download, found: int) -> DownloadError:
    return DownloadError(
        f"{redact(job.file.url)} has {found:,} bytes or more, not the {job.file.size_bytes:,} expected. "
        f"It is another file: {job.connection.remedies.other}"
    )


def _silent(_label: str, _done: int, _total: int | None) -> None:
    """Ignore the progress."""
