"""Files on the disk: written with one kind of error, and recognised by size and digest.

Owns nothing but the rules: every failure to write is a `CacheError` that names folder, bytes needed
and remedy, so that callers can tell it from a failure of the network, which Python raises as the
same `OSError`. It knows nothing of where bytes come from.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO

from miaotui.config import cache_error, format_size
from miaotui.errors import CacheError, RequestError

_CHUNK_BYTES = 2**20


class Sink:
    """A file open for writing from byte ``start`` on (what lay there is cut off); closes with its
    ``with`` block.

    Every method raises `CacheError`; ``needed_bytes`` is what the whole file takes, for the
    message.
    """

    def __init__(self, path: Path, needed_bytes: int, start: int = 0) -> None:
        self._path = path
        self._needed_bytes = needed_bytes
        try:
            self._file = path.open("r+b" if start else "wb")
            self._file.seek(start)
            self._file.truncate()
        except OSError as error:
            raise self._failed(error) from error

    def write(self, data: bytes) -> None:
        """Write all of ``data``."""
        try:
            self._file.write(data)
        except OSError as error:
            raise self._failed(error) from error

    def sync(self) -> None:
        """Force written data to the disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._file.close()  # writes what is still buffered
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> Exception:
        return cache_error(error, self._path.parent, self._needed_bytes)


def matches(path: Path, size_bytes: int, sha256: str) -> bool:
    """Return whether the file at ``path`` exists and has this size and this SHA-256 (64 hex digits)."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != size_bytes:
                return False
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError:
        return False
    return digest.hexdigest() == sha256


def file_size(path: Path) -> int:
    """Return the bytes of the file at ``path``; 0 when there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def regular_size(path: Path) -> int:
    """Return the bytes of a regular file.

    Raises `RequestError` for anything else, since reading a pipe or a device may never end, and `OSError` for a path
    that cannot be looked at.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise RequestError(f"{path} is no regular file: write the text to a file, and name that")
    return found.st_size


def require_room(folder: Path, needed_bytes: int) -> None:
    """Raise `CacheError` unless ``folder`` has room for ``needed_bytes`` more."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise cache_error(error, folder) from error
    if free < needed_bytes:
        full = OSError(errno.ENOSPC, f"{format_size(free)} are free")
        raise cache_error(full, folder, needed_bytes)


def replace(source: Path, target: Path) -> None:
    """Give ``source`` the name ``target`` in one step."""
    try:
        os.replace(source, target)
    except OSError as error:
        raise cache_error(error, target.parent) from error


def write_whole(path: Path, what: str, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file by ``write``, whole or not at all: it has the name ``path`` once all of it is there.

    Raises `CacheError`, which calls the file ``what``; the file that was there stays then, and nothing lies beside it.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            write(file)
        os.replace(part, path)
    except OSError as error:
        raise CacheError(f"{what} cannot be written to {path}: {error}") from error
    finally:
        remove(part)


def remove(path: Path) -> None:
    """Remove a file, if it is there and can be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # it only costs room
