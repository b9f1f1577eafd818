"""The cache of packed weights: one folder, one file per key, least recently used out first.

Owns keys, places, clean-up and the size bound. It knows neither what is packed nor the file format
(`packed`, `packed_writer`). Invariant: any number of processes may open, create and prune at once;
each sees a complete file or none, and a file that is in use stays readable after it is removed
(POSIX keeps mapped files alive; Windows refuses to remove them).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from miaotui.config import cache_error, format_size, make_folder
from miaotui.errors import CacheError, ModelNotFoundError
from miaotui.hub.formats.packed import PackedFile, read_packed
from miaotui.hub.formats.packed_writer import PART_SUFFIX, PackedWriter
from miaotui.hub.lock import try_lock
from miaotui.hub.parts import part_paths

__all__ = ["PackedFile", "PackedStore", "PackedWriter", "content_key"]

_SUFFIX = ".packed"
_KEY = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
_LEFTOVER_AGE_S = 60.0  # younger unlocked partial files may be just about to be locked
_EDGE_BYTES = 2**20
_SOURCES = ("*.safetensors", "*.gguf", "*.onnx", "*.bin", "*.json", "*_*/*.safetensors", "*_*/*.json")


class PackedStore:
    """Packed files in ``folder`` (made when first written), held to ``max_bytes`` after each new
    file.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def path(self, key: str) -> Path:
        """Return the path of the file of ``key``; a key is 1 to 128 letters, digits, dots, dashes and
        underscores.
        """
        if not _KEY.fullmatch(key):
            raise CacheError(f"{key!r} cannot name a cached file: use letters, digits, '.', '-' and '_', 128 at most")
        return self.folder / f"{key}{_SUFFIX}"

    def open(self, key: str) -> PackedFile | None:
        """Return the file of ``key``, mapped read-only, or None when it is absent, torn, stale or foreign:
        build it again then.
        """
        path = self.path(key)
        packed = read_packed(path, key)
        if packed is not None:
            _touch(path)
        return packed

    def holds(self, key: str) -> bool:
        """Return whether there is a file of ``key``, intact or not."""
        return self.path(key).exists()

    @contextmanager
    def create(self, key: str, meta: Mapping[str, Any], expected_bytes: int = 0) -> Iterator[PackedWriter]:
        """Yield a writer for ``key``; the file appears when the block ends, and nothing remains when the
        block raises.

        ``meta`` is plain JSON; ``expected_bytes`` lets a full disk be noticed before the work.
        Raises `CacheError`.
        """
        path = self.path(key)
        make_folder(self.folder)
        self._sweep()
        self._check_room(expected_bytes)
        writer = PackedWriter(path, key, meta, expected_bytes)
        try:
            yield writer
            writer.commit()
        except BaseException:
            writer.abort()
            raise
        if self.max_bytes is not None:
            self.prune(self.max_bytes, keep=(key,))

    def remove(self, key: str) -> None:
        """Remove the file of ``key``, if there is one; a process that has opened it reads on."""
        _remove(self.path(key))

    def prune(self, max_bytes: int, keep: Iterable[str] = ()) -> int:
        """Remove the least recently opened files until at most ``max_bytes`` remain; returns the
        bytes freed.
        """
        kept = {self.path(key) for key in keep}
        files = sorted(_stats(self.folder.glob(f"*{_SUFFIX}")), key=lambda item: item[1].st_mtime_ns)
        total, freed = sum(stat.st_size for _, stat in files), 0
        for path, stat in files:
            if total - freed <= max_bytes:
                break
            if path not in kept and _remove(path):
                freed += stat.st_size
        return freed

    def _check_room(self, expected_bytes: int) -> None:
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise cache_error(error, self.folder) from error
        if free < expected_bytes:
            raise CacheError(
                f"packing needs {expected_bytes:,} bytes ({format_size(expected_bytes)}) "
                f"in {self.folder}, and "
                f"{format_size(free)} are free. "
                "Free space there, or set MIAOTUI_HOME to a folder on a larger disk"
            )

    def _sweep(self) -> None:
        """Remove partial files whose writers have died."""
        for path, stat in _stats(self.folder.glob(f".*{PART_SUFFIX}")):
            if time.time() - stat.st_mtime > _LEFTOVER_AGE_S and _is_unlocked(path):
                _remove(path)


def content_key(path: Path, extra: Mapping[str, Any]) -> str:
    """Return the identity of a model's source and of its packed form, as 40 hex digits.

    ``path`` is a file (with all its parts), or a folder whose weights, ``config.json`` and tokenizer files count. Of
    each file the name, size, time of change and the SHA-256 of its first and last MiB count: a
    change inside a large file that keeps its size *and* its time goes unseen, in return for a key
    in milliseconds. ``extra`` (plain JSON: format, layout version, CPU kind) counts whole. Raises
    `ModelNotFoundError` when ``path`` cannot be read.
    """
    try:
        files = [_identity(p) for p in files_of(path)]
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelNotFoundError(
            f"cannot read the model at {path}: {reason}. Check the path and its permissions"
        ) from error
    if not files:
        raise ModelNotFoundError(f"no model files ({', '.join(_SOURCES)}) in {path}. Name the folder that holds them")
    text = json.dumps([files, extra], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def files_of(path: Path) -> list[Path]:
    """Return the files that decide what a model is: a file's parts, or a folder's weights, configuration, tokenizer."""
    return _model_files(path) if path.is_dir() else list(part_paths(path))


def _model_files(folder: Path) -> list[Path]:
    found = [path for pattern in _SOURCES for path in folder.glob(pattern)]
    return sorted(path for path in found if path.is_file())  # opening a pipe would wait


def _identity(path: Path) -> list[str | int]:
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        return [path.name, stat.st_size, stat.st_mtime_ns, _edges_digest(file, stat.st_size)]


def _edges_digest(file: BinaryIO, size_bytes: int) -> str:
    digest = hashlib.sha256(file.read(_EDGE_BYTES))
    file.seek(max(_EDGE_BYTES, size_bytes - _EDGE_BYTES))
    digest.update(file.read(_EDGE_BYTES))
    return digest.hexdigest()


def _stats(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Return each path with its facts, without those another process has just removed."""
    for path in paths:
        try:
            yield path, path.stat()
        except OSError:
            continue


def _touch(path: Path) -> None:
    """Mark a file as used just now."""
    with suppress(OSError):  # a read-only cache is still a cache
        os.utime(path)


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False  # another process was faster, or (on Windows) has it open
    return True


def _is_unlocked(path: Path) -> bool:
    try:
        with path.open("r+b") as file:
            return try_lock(file.fileno())
    except OSError:
        return False
