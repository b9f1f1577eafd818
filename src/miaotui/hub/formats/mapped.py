"""Opens a model file as a read-only memory map, and moves through one within its bounds.

Owns the checks that come before any format: the path is a regular, readable, non-empty file. Knows
no format. Invariant: the size is taken once, when the file is mapped; every later bound is checked
against the length of the map. A file must not be truncated while it is in use: reading a page that
is gone ends the process on most systems, for this program as for any other that maps files.
"""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

from miaotui.errors import ModelError, ModelFormatError, ModelNotFoundError
from miaotui.hub.formats.tensors import TRUNCATED


def map_file(path: str | os.PathLike[str]) -> mmap.mmap:
    """Map the whole file for reading; it stays mapped until the last view of it is gone.

    Raises `ModelNotFoundError`, `ModelFormatError` (empty), or `ModelError` (not readable).
    """
    path = Path(path)
    try:
        # Look before opening: opening a pipe would wait for its writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelNotFoundError(f"{path} is not a file; give the path of a model file, not of a folder or device")
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise ModelFormatError(f"{path} is empty; download it again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelNotFoundError(f"there is no file {path}; check the path, or download the model") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}; check its permissions") from error


class BinaryCursor:
    """Base of readers that take a file from its beginning to its end. ``label`` names the file in errors."""

    def __init__(self, buffer: mmap.mmap | bytes, label: str) -> None:
        self._buffer, self._label, self._place = buffer, label, 0

    def _advance(self, size_bytes: int) -> int:
        """Move past so many bytes, and return where they begin. Raises `ModelFormatError` beyond the end."""
        start = self._place
        if start + size_bytes > len(self._buffer):
            raise self._corrupt(f"{size_bytes:,} bytes at byte {start} reach beyond its end")
        self._place += size_bytes
        return start

    def _corrupt(self, problem: str) -> ModelFormatError:
        return ModelFormatError(f"{self._label}: {problem}; {TRUNCATED}")
