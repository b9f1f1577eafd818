"""Writes a packed-weights file tensor by tensor, so that memory holds one tensor at a time.

Owns the temporary file until it is complete. It does not know where packed files are kept or when
they are stale (that is `store`), nor the layout (that is `packed`). Invariant: the final name
appears by one rename of a complete, synced file, or not at all; and room on the disk is taken
before a byte is written, because writing through a mapping to a full disk would end the process
with a signal instead of an error.
"""

from __future__ import annotations

import errno
import math
import os
import secrets
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from miaotui.config import cache_error
from miaotui.errors import CacheError
from miaotui.hub.formats.packed import (
    DATA_START,
    DTYPES,
    PAGE_BYTES,
    PackedEntry,
    align,
    encode_preamble,
    encode_table,
    sample_checksum,
)
from miaotui.hub.lock import try_lock

PART_SUFFIX = ".part"
_CHUNK_BYTES = 2**20
_NO_FALLOCATE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})

Array = np.ndarray[Any, np.dtype[Any]]


class PackedWriter:
    """One packed file in the making; `PackedStore.create` makes, commits and aborts it.

    Every method raises `CacheError` when the disk is full or cannot be written, naming the folder
    and the bytes needed.
    """

    def __init__(self, path: Path, key: str, meta: Mapping[str, Any], expected_bytes: int = 0) -> None:
        self._path = path
        self._key = key
        self._meta = meta
        self._expected_bytes = expected_bytes
        self._entries: dict[str, PackedEntry] = {}
        self._reserved: list[str] = []
        self._shared: dict[str, str] = {}
        self._end = 0
        self._part = path.with_name(f".{key}.{secrets.token_hex(4)}{PART_SUFFIX}")
        try:
            self._file = FileIO(self._part, "x+")  # unbuffered: mappings see the same bytes
        except OSError as error:
            raise cache_error(error, path.parent) from error
        with suppress(OSError):  # without locks, clean-up leaves partial files alone
            try_lock(self._file.fileno())
        try:
            self._grow(DATA_START)
        except CacheError:
            self.abort()
            raise

    def add(self, name: str, array: Array) -> None:
        """Write ``array`` (any shape and strides, of a type in `packed.DTYPES`) under ``name``."""
        array = np.asarray(array, order="C")
        entry = self._place(name, array.shape, array.dtype)
        data = array.reshape(-1).view(np.uint8).data
        self._write(entry.offset, data)
        self._entries[name] = entry._replace(checksum=zlib.crc32(data), sample=sample_checksum(data))

    def reserve(self, name: str, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return a writable view (zeros) of the room for a tensor, to be packed straight into the file.

        Fill it before the ``with`` block of `PackedStore.create` ends; its checksum is taken then.
        Drop the view with the block: writing to it later would change a published file.
        """
        entry = self._place(name, tuple(shape), np.dtype(dtype))
        self._reserved.append(name)
        if not entry.size_bytes:
            return np.empty(entry.shape, entry.dtype)
        try:
            return np.memmap(self._file, entry.dtype, "r+", entry.offset, entry.shape)
        except OSError as error:
            raise self._failed(error) from error

    def share(self, name: str, of: str) -> None:
        """Let ``name`` be another name of the tensor ``of``, which lies in the file once."""
        if name in self._entries or name in self._shared:
            raise CacheError(f"tensor {name!r} is packed twice. Give each tensor its own name")
        self._shared[name] = of

    def commit(self) -> None:
        """Finish the file, force it to the disk, and give it its name."""
        try:
            for name in self._reserved:
                self._entries[name] = self._checked(self._entries[name])
            for name, of in self._shared.items():
                self._entries[name] = self._entries[of]._replace(name=name)
            self._write_table()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._part, self._path)
            _sync_folder(self._path.parent)
        except OSError as error:
            raise self._failed(error) from error

    def abort(self) -> None:
        """Remove what was written; never raises, so the error that led here is seen."""
        with suppress(OSError):  # what cannot be removed now, the next clean-up takes
            self._file.close()
            self._part.unlink(missing_ok=True)

    def _place(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> PackedEntry:
        """Return the entry of a new tensor, with room for it at the end of the file."""
        if name in self._entries:
            raise CacheError(f"tensor {name!r} is packed twice. Give each tensor its own name")
        if dtype.str not in DTYPES:
            known = " ".join(sorted(DTYPES))
            raise CacheError(f"tensor {name!r} has type {dtype}; a packed file holds {known}")
        size = math.prod(shape) * dtype.itemsize
        entry = PackedEntry(name, dtype.str, shape, align(self._end, size))
        self._grow(entry.offset + size)
        self._entries[name] = entry
        return entry

    def _grow(self, end: int) -> None:
        """Take room up to ``end``, as zeros."""
        try:
            _allocate(self._file, self._end, end - self._end)
        except OSError as error:
            raise self._failed(error, end) from error
        self._end = end

    def _write(self, offset: int, data: memoryview | bytes) -> None:
        try:
            self._file.seek(offset)
            _write_all(self._file, data)
        except OSError as error:
            raise self._failed(error) from error

    def _checked(self, entry: PackedEntry) -> PackedEntry:
        """Return ``entry`` with the checksums of the data in its reserved view."""
        checksum, left, head, tail = 0, entry.size_bytes, b"", b""
        self._file.seek(entry.offset)
        while left:
            data = self._file.read(min(left, _CHUNK_BYTES))
            if not data:
                raise OSError(errno.EIO, "the file ended early")
            checksum, left = zlib.crc32(data, checksum), left - len(data)
            if len(head) < 2 * PAGE_BYTES:
                head = (head + data)[: 2 * PAGE_BYTES]
            tail = (tail + data)[-PAGE_BYTES:]
        edges = head if entry.size_bytes <= 2 * PAGE_BYTES else head[:PAGE_BYTES] + tail
        return entry._replace(checksum=checksum, sample=zlib.crc32(edges))

    def _write_table(self) -> None:
        try:
            table = encode_table(self._key, self._meta, self._entries.values())
        except (TypeError, ValueError) as error:
            raise CacheError(f"a packed file's meta must be plain JSON: {error}") from error
        offset = self._end
        self._grow(offset + len(table))
        self._write(offset, table)
        self._write(0, encode_preamble(table, offset))

    def _failed(self, error: OSError, end: int = 0) -> CacheError:
        needed = max(end, self._end, self._expected_bytes)
        return cache_error(error, self._path.parent, needed)


def _allocate(file: FileIO, start: int, size_bytes: int) -> None:
    """Extend a file by zeros that occupy disk blocks; raises `OSError` when there is no room."""
    if size_bytes <= 0:
        return
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), start, size_bytes)
            return
        except OSError as error:
            if error.errno not in _NO_FALLOCATE:
                raise
    file.seek(start)
    while size_bytes > 0:
        chunk = bytes(min(size_bytes, _CHUNK_BYTES))
        _write_all(file, chunk)
        size_bytes -= len(chunk)


def _write_all(file: FileIO, data: memoryview | bytes) -> None:
    """Write all of ``data``: one call of the operating system writes 2 GiB at most."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]


def _sync_folder(folder: Path) -> None:
    """Force a rename to the disk if folders can be opened (not on Windows)."""
    if os.name != "posix":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
