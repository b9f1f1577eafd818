"""Partition whose files on disk are sealed: the library works on copies in memory, and each commit is sealed to disk.

Owns the manifest, which names the files of a committed state and is replaced last, and when copies are made. Knows the
library's files by their names alone. Invariants: no plain byte of the index is written to the disk; a commit that
returned survives a killed process; a manifest's files are all there and are those of one state.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from miaotui.config import cache_error, make_folder
from miaotui.errors import CacheError, DocumentIndexError
from miaotui.libraries import need
from miaotui.retrieval.index import schema
from miaotui.retrieval.index.partition import SEGMENT_FILE, Partition
from miaotui.retrieval.index.snapshot import Snapshot
from miaotui.sealing.memory_folder import VARIABLE, MemoryFolder
from miaotui.sealing.seal import Seal, sealed_path
from miaotui.sealing.sealed_file import SUFFIX

_MANIFEST, _META, _MANAGED = "manifest", "meta.json", ".managed.json"
_CHUNK_BYTES = 1 << 20
_TRIES = 20  # of copying a state, while merges or another process replace files


class SealedPartition(Partition):
    """Partition that exists on disk, sealed. Raises `EncryptionKeyError` and `DocumentIndexError`."""

    def __init__(self, folder: Path, seal: Seal) -> None:
        self.disk, self._seal = folder, seal
        self._memory = MemoryFolder()
        self._manifest_stamp: tuple[int, int] | None = None
        self._sealed: frozenset[str] = frozenset()  # files of the manifest
        try:
            self._pull()
            super().__init__(self._memory.path)
        except BaseException:
            self._memory.remove()
            raise

    @classmethod
    def create_sealed(cls, folder: Path, seal: Seal) -> SealedPartition:
        """Create an empty partition in ``folder``."""
        make_folder(folder)
        memory = MemoryFolder()
        need("tantivy").Index(schema.build(), path=str(memory.path))
        seal_files(memory.path, folder, seal, frozenset())
        memory.remove()
        return cls(folder, seal)

    def snapshot(self) -> Snapshot:
        """Return the newest committed state, also one that another process committed."""
        if self._writer is None and self._disk_stamp() not in (None, self._manifest_stamp):
            with self._lock:
                self._pull()
        return super().snapshot()

    def commit(self) -> None:
        """Make all changes durable and visible, or raise and leave the last commit as it was."""
        if self._writer is not None:
            super().commit()
            self._push()

    def close(self) -> None:
        """Wait for merges, seal what they have made, and let others write."""
        if self._writer is not None:
            super().close()
            self._push()

    def _drop_unused(self) -> None:
        super()._drop_unused()
        self._push()

    def _push(self) -> None:
        """Seal the committed state to disk; merges may replace files meanwhile."""
        for left in range(_TRIES, -1, -1):
            try:
                self._sealed = seal_files(self._memory.path, self.disk, self._seal, self._sealed)
            except FileNotFoundError as error:
                if not left:
                    raise cache_error(error, self.disk) from error
            else:
                self._manifest_stamp = self._disk_stamp()
                return

    def _pull(self) -> None:
        """Copy the state on disk into memory; another process may replace it meanwhile."""
        for left in range(_TRIES, -1, -1):
            stamp = self._disk_stamp()
            try:
                manifest = json.loads(b"".join(self._seal.read(self.disk / _MANIFEST)))
                for name in manifest["files"]:
                    self._copy(name)
            except FileNotFoundError as error:
                if not left:
                    raise DocumentIndexError(f"{self.disk} holds no index; it is damaged. Create it anew") from error
                continue
            for name in (_MANAGED, _META):
                part = self._memory.path / f"{name}.part"
                part.write_text(manifest[name], encoding="utf-8")
                os.replace(part, self._memory.path / name)
            self._sealed, self._manifest_stamp = frozenset(manifest["files"]), stamp
            for path in self._memory.path.iterdir():
                if SEGMENT_FILE.match(path.name) and path.name not in self._sealed:
                    path.unlink(missing_ok=True)
            return

    def _copy(self, name: str) -> None:
        if not SEGMENT_FILE.match(name) or "/" in name:
            raise DocumentIndexError(f"the manifest in {self.disk} is damaged. Create the index anew")
        target = self._memory.path / name
        if target.exists():
            return
        part = target.with_name(f"copying.{name}")
        try:
            with part.open("wb") as file:
                for chunk in self._seal.read(self.disk / name):
                    file.write(chunk)
            os.replace(part, target)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CacheError(
                f"no room to open an encrypted index in memory at {self._memory.path.parent}: {error.strerror}. Make "
                f"that file system larger (in a container, its shared memory), or set {VARIABLE} to another one"
            ) from error
        finally:
            part.unlink(missing_ok=True)

    def _disk_stamp(self) -> tuple[int, int] | None:
        try:
            status = os.stat(sealed_path(self.disk / _MANIFEST))
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino


def seal_files(
    source: Path, disk: Path, seal: Seal, known: frozenset[str], *, keep_plain: bool = False
) -> frozenset[str]:
    """Seal the committed state of the library's folder ``source`` into ``disk``; return the names of its files.

    Files in ``known`` are sealed already, and never change. Everything else in ``disk`` goes, but for plain files with
    ``keep_plain``. Raises `FileNotFoundError` where a merge replaced files meanwhile.
    """
    meta = (source / _META).read_text(encoding="utf-8")
    used = {segment["segment_id"].replace("-", "") for segment in json.loads(meta)["segments"]}
    names = frozenset(
        path.name for path in source.iterdir() if SEGMENT_FILE.match(path.name) and path.name[:32] in used
    )
    for name in sorted(names - known):
        seal.write(disk / name, _chunks(source / name))
    managed = source / _MANAGED
    manifest = {
        "files": sorted(names),
        _META: meta,
        _MANAGED: managed.read_text(encoding="utf-8") if managed.exists() else "[]",
    }
    seal.write(disk / _MANIFEST, [json.dumps(manifest).encode()])
    kept = {sealed_path(disk / name).name for name in (*names, _MANIFEST)}
    for path in disk.iterdir():
        if path.name not in kept and path.is_file() and not (keep_plain and not path.name.endswith(SUFFIX)):
            path.unlink(missing_ok=True)
    return names


def remove_plain(disk: Path) -> None:
    """Delete the plain files of a partition that is sealed."""
    for path in disk.iterdir():
        if path.is_file() and not path.name.endswith(SUFFIX):
            path.unlink(missing_ok=True)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
