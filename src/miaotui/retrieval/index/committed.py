"""The files of one committed state of an index, open, so that they can be read whatever is written meanwhile.

Owns which files belong to a state. Knows no network. Invariant: the files are those of one state: `index.json`, and for
each partition what its `meta.json` names; a merge that removes one of them later does not take it from an open handle.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from miaotui.errors import DocumentIndexError
from miaotui.retrieval.index.settings import INDEX_FILE, read_plan

_READ_BYTES = 1 << 20
_ATTEMPTS = 50  # at a state that changes while it is opened


@dataclass(frozen=True)
class CommittedFile:
    """One file of a state; ``name`` is relative to the index's folder, with slashes."""

    name: str
    size: int
    sha256: str
    file: IO[bytes]


class CommittedState:
    """An open state. Close it, or use it in a ``with`` block."""

    def __init__(self, files: tuple[CommittedFile, ...], opened: ExitStack) -> None:
        self.files = files
        self._opened = opened

    @property
    def digest(self) -> str:
        """Return a digest of the names and contents of all files."""
        lines = sorted(f"{each.sha256} {each.name}" for each in self.files)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def __enter__(self) -> CommittedState:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._opened.close()


def open_state(folder: Path) -> CommittedState:
    """Open the newest committed state of the index in ``folder``. Raises `DocumentIndexError`."""
    for _ in range(_ATTEMPTS):
        opened = ExitStack()
        try:
            return CommittedState(tuple(_files(folder, opened)), opened)
        except (FileNotFoundError, _ChangedError):
            opened.close()
        except BaseException:
            opened.close()
            raise
    raise DocumentIndexError(f"the index in {folder} changes too fast to be copied, or its files are gone")


class _ChangedError(Exception):
    """A partition was committed while its files were opened."""


def _files(folder: Path, opened: ExitStack) -> list[CommittedFile]:
    found = [_opened(folder, folder / INDEX_FILE, opened)]
    for partition in read_plan(folder).folders(folder):
        meta = (partition / "meta.json").read_bytes()
        segments = [str(each["segment_id"]).replace("-", "") for each in json.loads(meta)["segments"]]
        names = [path for each in segments for path in sorted(partition.glob(f"{each}.*"))]
        parts = [_opened(folder, path, opened) for path in [*names, partition / "meta.json"]]
        if parts[-1].sha256 != hashlib.sha256(meta).hexdigest():
            raise _ChangedError
        found += parts
    return found


def _opened(folder: Path, path: Path, opened: ExitStack) -> CommittedFile:
    file = opened.enter_context(path.open("rb"))
    digest, size = hashlib.sha256(), 0
    while piece := file.read(_READ_BYTES):
        digest.update(piece)
        size += len(piece)
    return CommittedFile(path.relative_to(folder).as_posix(), size, digest.hexdigest(), file)
