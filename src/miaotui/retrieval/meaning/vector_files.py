"""Files of an index's vectors in one space: the graph, and the note that names it, plain or sealed as the index is.

Owns their names and the order in which they are replaced. Knows neither embedders nor passages. Invariant: the note is
written last and names a graph that is there; earlier graphs go after it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from miaotui.config import cache_error
from miaotui.sealing.seal import Seal, sealed_path

NOTE = "vectors.json"
_GRAPHS = ".usearch"


class VectorFiles:
    """Files in ``folder``; ``seal`` None: they are plain."""

    def __init__(self, folder: Path, seal: Seal | None) -> None:
        self.folder, self._seal = folder, seal

    @property
    def stamp(self) -> int:
        """Return when the note was written; 0 where there is none."""
        note = self.folder / NOTE
        try:
            return os.stat(note if self._seal is None else sealed_path(note)).st_mtime_ns
        except OSError:
            return 0

    def read_note(self) -> dict[str, Any]:
        """Return the note. Raises `OSError`, `ValueError` and `EncryptionKeyError`."""
        note = self.folder / NOTE
        data = note.read_bytes() if self._seal is None else b"".join(self._seal.read(note))
        found: dict[str, Any] = json.loads(data)
        return found

    def load_graph(self, name: str, graph: Any) -> None:
        """Load the graph that a note names. Raises `OSError`, `RuntimeError` and `EncryptionKeyError`."""
        path = self.folder / name
        graph.load(str(path) if self._seal is None else b"".join(self._seal.read(path)))

    def write(self, note: dict[str, Any], graph: Any) -> None:
        """Write the graph under a new name, then the note with that name. Raises `CacheError`."""
        name = f"{time.time_ns()}{_GRAPHS}"
        text = json.dumps({**note, "file": name}, ensure_ascii=False)
        try:
            if self._seal is None:
                graph.save(str(self.folder / name))
                part = self.folder / f"{NOTE}.part"
                part.write_text(text, encoding="utf-8")
                os.replace(part, self.folder / NOTE)
            else:
                self._seal.write(self.folder / name, [bytes(graph.save())])
                self._seal.write(self.folder / NOTE, [text.encode()])
            for old in self.folder.glob(f"*{_GRAPHS}*"):
                if not old.name.startswith(name):
                    old.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:
            raise cache_error(OSError(*error.args), self.folder) from error


def remove_vectors(index: Path) -> None:
    """Delete all vectors of an index; they are made anew when they are needed."""
    for note in (*index.glob(f"*/{NOTE}"), *index.glob(f"*/{NOTE}.sealed")):
        shutil.rmtree(note.parent, ignore_errors=True)
