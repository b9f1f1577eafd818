"""The packed-weights file: its layout, and the reader that maps it.

    bytes 0..67   preamble: magic, version, place, size and SHA-256 of the table, file size, CRC-32
    4096..        tensors; those of a page (4096 bytes) or more start on a page,
                  smaller ones on a cache line (64 bytes)
    then          table: JSON with the key, the caller's ``meta`` and each tensor's name, type,
                  shape, offset and checksums

Owns the format and its checks; it does not know what the tensors mean. Invariant: `read_packed`
returns a file only when the preamble, table, sizes and the first and last page of every tensor are
intact; whatever else it finds is "no file", never an error and never trusted. Checksums are CRC-32:
they guard against torn writes, not against an enemy with access to the cache.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from miaotui.closing import Closing

MAGIC = b"MIAOPACK"
FORMAT_VERSION = 1
PAGE_BYTES = 4096
LINE_BYTES = 64
DATA_START = PAGE_BYTES
MAX_TABLE_BYTES = 64 * 2**20
DTYPES = frozenset(["|b1", "|u1", "|i1", "<u2", "<i2", "<f2", "<u4", "<i4", "<f4", "<u8", "<i8", "<f8"])

_PREAMBLE = struct.Struct("<8sIIQQ32s")  # magic, version, table bytes, table offset, file bytes, SHA-256 of the table
_CHECK = struct.Struct("<I")  # CRC-32 of the preamble


class PackedEntry(NamedTuple):
    """One tensor's place in the file."""

    name: str
    dtype: str  # one of `DTYPES`
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    checksum: int = 0  # CRC-32 of all its bytes
    sample: int = 0  # CRC-32 of its first and last page

    @property
    def size_bytes(self) -> int:
        """Return bytes the tensor takes."""
        return math.prod(self.shape) * int(self.dtype[2:])


@dataclass(frozen=True)
class PackedFile(Closing):
    """An open packed file: read-only arrays that are views of the mapping, and the writer's
    ``meta``.

    The mapping lives as long as the file object or any of its arrays.
    """

    path: Path
    key: str
    meta: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray[Any, np.dtype[Any]]]
    size_bytes: int
    _entries: tuple[PackedEntry, ...]
    _map: mmap.mmap

    def verify(self) -> bool:
        """Return whether every byte of every tensor is what was written; reads the whole file (about 4 GB/s when it
        is cached).
        """
        with memoryview(self._map) as view:
            return all(zlib.crc32(view[e.offset : e.offset + e.size_bytes]) == e.checksum for e in self._entries)

    def advise(self) -> bool:
        """Ask the kernel to read ahead and to use huge pages; False where it cannot. Changes speed
        only.
        """
        done, madvise = False, getattr(self._map, "madvise", None)  # Windows has none
        for name in ("MADV_WILLNEED", "MADV_HUGEPAGE"):
            advice = getattr(mmap, name, None)
            try:
                if advice is not None and madvise is not None:
                    madvise(advice)
                    done = True
            except OSError:
                continue  # a kernel or file system without this advice
        return done

    def close(self) -> None:
        """Unmap the file, unless arrays of it are still in use: then that happens when the last of
        them is dropped.
        """
        object.__setattr__(self, "arrays", MappingProxyType({}))
        with suppress(BufferError):  # a caller holds an array; the mapping ends with it
            self._map.close()


def read_packed(path: Path, key: str) -> PackedFile | None:
    """Map the packed file at ``path``, or None when there is none for ``key`` that can be trusted.

    Costs a few milliseconds for hundreds of tensors, whatever their size: only their first and last
    pages are read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            mapping = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size >= DATA_START else None
    except (OSError, ValueError):
        return None
    if mapping is None:
        return None
    try:
        return _open_mapping(path, key, mapping)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        mapping.close()
        return None


def align(offset: int, size_bytes: int) -> int:
    """Return the first place at or after ``offset`` where a tensor of ``size_bytes`` may start."""
    step = PAGE_BYTES if size_bytes >= PAGE_BYTES else LINE_BYTES
    return -(-offset // step) * step


def sample_checksum(data: memoryview) -> int:
    """Return the CRC-32 of the first and last page of ``data`` (all of it, up to two pages)."""
    if len(data) <= 2 * PAGE_BYTES:
        return zlib.crc32(data)
    return zlib.crc32(data[-PAGE_BYTES:], zlib.crc32(data[:PAGE_BYTES]))


def encode_table(key: str, meta: Mapping[str, Any], entries: Iterable[PackedEntry]) -> bytes:
    """Return the table as bytes. Raises `ValueError` or `TypeError` for a ``meta`` that is not JSON."""
    rows = [[e.name, e.dtype, e.shape, e.offset, e.checksum, e.sample] for e in entries]
    table = {"key": key, "meta": dict(meta), "tensors": rows}
    return json.dumps(table, allow_nan=False, separators=(",", ":")).encode()


def encode_preamble(table: bytes, table_offset: int) -> bytes:
    """Return the preamble of a file whose ``table`` lies at ``table_offset`` and ends the file."""
    digest = hashlib.sha256(table).digest()
    head = _PREAMBLE.pack(MAGIC, FORMAT_VERSION, len(table), table_offset, table_offset + len(table), digest)
    return head + _CHECK.pack(zlib.crc32(head))


def _open_mapping(path: Path, key: str, mapping: mmap.mmap) -> PackedFile:
    table_offset, table = _read_table(mapping)
    if table["key"] != key:
        raise ValueError("a file of another key")
    entries = tuple(_entry(row, table_offset) for row in table["tensors"])
    if len({e.name for e in entries}) != len(entries):
        raise ValueError("a tensor stored twice")
    with memoryview(mapping) as view:
        for e in entries:
            with view[e.offset : e.offset + e.size_bytes] as tensor:
                if sample_checksum(tensor) != e.sample:
                    raise ValueError("a torn tensor")
    data = np.frombuffer(mapping, np.uint8)  # keeps the mapping from being closed under its views
    arrays = {e.name: data[e.offset : e.offset + e.size_bytes].view(e.dtype).reshape(e.shape) for e in entries}
    meta = MappingProxyType(dict(table["meta"]))
    return PackedFile(path, key, meta, MappingProxyType(arrays), len(mapping), entries, mapping)


def _read_table(mapping: mmap.mmap) -> tuple[int, dict[str, Any]]:
    """Return (offset of the table, the table), both checked against the file."""
    head = mapping[: _PREAMBLE.size]
    (check,) = _CHECK.unpack_from(mapping, _PREAMBLE.size)
    magic, version, table_bytes, table_offset, file_bytes, digest = _PREAMBLE.unpack(head)
    if magic != MAGIC or version != FORMAT_VERSION or check != zlib.crc32(head):
        raise ValueError("not a packed file of this version")
    if file_bytes != len(mapping) or table_offset + table_bytes != file_bytes or table_bytes > MAX_TABLE_BYTES:
        raise ValueError("sizes do not agree")
    text = mapping[table_offset:file_bytes]
    if hashlib.sha256(text).digest() != digest:
        raise ValueError("a torn table")
    table = json.loads(text)
    if not isinstance(table, dict):
        raise ValueError("the table is not an object")
    return table_offset, table


def _entry(row: list[Any], data_end: int) -> PackedEntry:
    """Return one row of the table, checked: a known type, whole non-negative numbers, and a place inside
    the data.
    """
    name, dtype, shape, *numbers = row
    offset, checksum, sample = numbers
    if not isinstance(name, str) or dtype not in DTYPES or len(shape) > 8:
        raise ValueError("an unknown tensor type")
    if not all(type(n) is int and n >= 0 for n in (*shape, *numbers)):
        raise ValueError("a number out of range")
    entry = PackedEntry(name, dtype, tuple(shape), offset, checksum, sample)
    if offset < DATA_START or offset % LINE_BYTES or offset + entry.size_bytes > data_end:
        raise ValueError("a tensor outside the file")
    return entry
