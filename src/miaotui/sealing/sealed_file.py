"""Sealed files: contents in chunks under a data key of the file's own, with authentication of their order and end.

Owns the form: a mark (8 bytes), the wrapped data key, the bytes in a chunk (4, little-endian), then chunks under
AES-256-GCM, which are bound to their size. A chunk's nonce is its number and whether it is the last, so that none can
be left out, moved or cut off (the STREAM construction: Hoang, Reyhanitabar, Rogaway, Vizar, "Online
Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015). Knows no meaning. Invariants: a file is written
whole or not at all; what it holds opens only in its own place (its `context`), so that files cannot be exchanged.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from miaotui.config import cache_error
from miaotui.errors import CacheError, EncryptionKeyError
from miaotui.libraries import need
from miaotui.sealing.master_keys import WRAPPED_BYTES, MasterKeys, aead

MARK = b"MTSEAL1\0"
CHUNK_BYTES, MOST_CHUNK_BYTES, TAG_BYTES = 1 << 20, 1 << 24, 16
SUFFIX = ".sealed"
_HEADER_BYTES = len(MARK) + WRAPPED_BYTES + 4


def write_sealed(path: Path, parts: Iterable[bytes], keys: MasterKeys, context: str) -> None:
    """Write a sealed file in place of ``path``. Raises `CacheError`."""
    data_key, wrapped = keys.new_data_key(context)
    cipher, bound = aead(data_key), _bound(context, CHUNK_BYTES)
    with _Replacement(path) as file:
        file.write(MARK + wrapped + CHUNK_BYTES.to_bytes(4, "little"))
        chunks = _of_size(parts)
        chunk = next(chunks)
        number = 0
        while True:
            following = next(chunks, None)
            file.write(cipher.encrypt(_nonce(number, is_last=following is None), chunk, bound))
            if following is None:
                break
            chunk, number = following, number + 1


def read_sealed(path: Path, keys: MasterKeys, context: str) -> Iterator[bytes]:
    """Yield the contents in chunks of at most `MOST_CHUNK_BYTES`, each checked before it is given.

    Raises `EncryptionKeyError` for a wrong key or damaged contents, `FileNotFoundError`, and `CacheError`.
    """
    with path.open("rb") as file:
        wrapped, size = _header(file, path)
        cipher, bound = aead(keys.unwrap(wrapped, context, str(path))), _bound(context, size)
        number, chunk = 0, file.read(size + TAG_BYTES)
        while True:
            following = file.read(size + TAG_BYTES)
            try:
                yield cipher.decrypt(_nonce(number, is_last=not following), chunk, bound)
            except need("cryptography.exceptions").InvalidTag:
                raise EncryptionKeyError(f"{path} is damaged: restore it from a copy, or make it anew") from None
            if not following:
                return
            chunk, number = following, number + 1


def is_sealed(path: Path) -> bool:
    """Return whether a file begins like a sealed one."""
    try:
        with path.open("rb") as file:
            return file.read(len(MARK)) == MARK
    except OSError:
        return False


def rewrap(path: Path, keys: MasterKeys, context: str) -> bool:
    """Wrap the data key of a file under the current master key; its contents stay. Returns whether that was needed.

    Raises `EncryptionKeyError` and `CacheError`.
    """
    with path.open("rb") as file:
        wrapped, size = _header(file, path)
        if keys.is_current(wrapped):
            return False
        data_key = keys.unwrap(wrapped, context, str(path))
        with _Replacement(path) as target:
            target.write(MARK + keys.wrap(data_key, context) + size.to_bytes(4, "little"))
            shutil.copyfileobj(file, target, CHUNK_BYTES)
    return True


def _header(file: BinaryIO, path: Path) -> tuple[bytes, int]:
    header = file.read(_HEADER_BYTES)
    size = int.from_bytes(header[-4:], "little")
    if len(header) != _HEADER_BYTES or not header.startswith(MARK) or not 1 <= size <= MOST_CHUNK_BYTES:
        raise EncryptionKeyError(f"{path} is not a sealed file, or damaged: restore it from a copy, or make it anew")
    return header[len(MARK) : -4], size


def _bound(context: str, size: int) -> bytes:
    """Return what each chunk is bound to, beside its nonce: the file's place and its bytes in a chunk."""
    return size.to_bytes(4, "little") + context.encode()


def _nonce(number: int, *, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([is_last])


def _of_size(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield all bytes in chunks of `CHUNK_BYTES`, the last one shorter; at least one."""
    held = bytearray()
    for part in parts:
        held += part
        while len(held) > CHUNK_BYTES:
            yield bytes(held[:CHUNK_BYTES])
            del held[:CHUNK_BYTES]
    yield bytes(held)


class _Replacement:
    """A file that takes the place of ``path`` when the block ends well, and is gone otherwise."""

    def __init__(self, path: Path) -> None:
        self._path, self._part = path, path.with_name(f"{path.name}.part")

    def __enter__(self) -> BinaryIO:
        try:
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise cache_error(error, self._path.parent) from error
        self._file: BinaryIO = open(descriptor, "wb")
        return self._file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()
            if kind is None:
                os.replace(self._part, self._path)
        except OSError as fault:
            self._part.unlink(missing_ok=True)
            raise cache_error(fault, self._path.parent) from fault
        if kind is not None:
            self._part.unlink(missing_ok=True)
            if isinstance(error, OSError) and not isinstance(error, CacheError):
                raise cache_error(error, self._path.parent) from error
