"""Seal of one index: its files under the master keys, each bound to its place in that index.

Owns contexts. Knows no contents. Invariant: a file of one index does not open in another, nor under another name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from miaotui.sealing.master_keys import MasterKeys
from miaotui.sealing.sealed_file import SUFFIX, read_sealed, rewrap, write_sealed


@dataclass(frozen=True)
class Seal:
    """Seal of the index with a ``uid`` in ``folder``; paths are those that the plain files would have."""

    folder: Path
    uid: str
    keys: MasterKeys

    def write(self, path: Path, parts: Iterable[bytes]) -> None:
        """Write a sealed file for a plain ``path``. Raises `CacheError`."""
        write_sealed(sealed_path(path), parts, self.keys, self._context(path))

    def read(self, path: Path) -> Iterator[bytes]:
        """Yield the contents of the file for a plain ``path``. Raises `EncryptionKeyError`, `FileNotFoundError`."""
        return read_sealed(sealed_path(path), self.keys, self._context(path))

    def rewrap_all(self) -> int:
        """Wrap the data keys of all files under the current master key. Returns how many were not before."""
        found = sorted(self.folder.rglob(f"*{SUFFIX}"))
        plain = [path.with_name(path.name.removesuffix(SUFFIX)) for path in found]
        return sum(rewrap(sealed_path(path), self.keys, self._context(path)) for path in plain)

    def _context(self, path: Path) -> str:
        return f"index/{self.uid}/{path.relative_to(self.folder).as_posix()}"


def sealed_path(path: Path) -> Path:
    """Return where the sealed form of a plain ``path`` lies."""
    return path.with_name(path.name + SUFFIX)
