"""A model that another program has stored, and the search for models in folders of files.

Owns the value and the bounds of the search. Knows no program's layout (`ollama`, `programs`) and opens no model.
Invariant: a search reads names only, follows no link to a folder twice, and ends after `MAX_FILES` files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from miaotui.errors import ModelError
from miaotui.hub.files import file_size
from miaotui.hub.parts import part_paths
from miaotui.hub.sources.repository import HubId, gguf_models, in_snapshot

MAX_FILES = 100_000  # of one program
MAX_DEPTH = 8


class StoredModel(NamedTuple):
    """A model on this computer: the ``name`` that opens it, the ``program`` that stored it, and where it lies.

    ``problem`` is why it cannot be opened although it is there; empty for others.
    """

    name: str
    program: str
    path: Path
    size_bytes: int
    problem: str = ""


def files_below(folder: Path) -> list[str]:
    """Return the paths of files below ``folder``, relative to it with ``/``, in order; empty if it cannot be read."""
    found: list[str] = []
    for root, folders, files in os.walk(folder):
        below = Path(root).relative_to(folder)
        if len(below.parts) >= MAX_DEPTH:
            folders.clear()
        found += ((below / name).as_posix() for name in files)
        if len(found) >= MAX_FILES:
            break
    return sorted(found[:MAX_FILES])


def stored_ggufs(folder: Path, program: str, prefix: str) -> Iterator[StoredModel]:
    """Yield the GGUF models below ``folder``, named by ``prefix`` and their path without its suffix."""
    for name in gguf_models(files_below(folder)):
        yield stored_file(folder / name, program, f"{prefix}:{name[: -len('.gguf')]}")


def stored_repository(folder: Path, repo: str, program: str, prefix: str) -> Iterator[StoredModel]:
    """Yield the models in a folder of the files of the repository ``owner/name``: safetensors, and each GGUF model."""
    names = files_below(folder)
    ggufs = gguf_models(names)
    if not ggufs:
        path = in_snapshot(folder, HubId(repo))
        if path is not None:
            size = sum(file_size(folder / name) for name in names if name.endswith(".safetensors"))
            yield StoredModel(f"{prefix}:{repo}", program, path, size)
    for name in ggufs:
        choice = "" if len(ggufs) == 1 else f":{name}"
        yield stored_file(folder / name, program, f"{prefix}:{repo}{choice}")


def stored_file(path: Path, program: str, name: str) -> StoredModel:
    """Return the model in a GGUF file, with its size over all parts."""
    try:
        return StoredModel(name, program, path, sum(map(file_size, part_paths(path))))
    except ModelError as error:
        return StoredModel(name, program, path, file_size(path), str(error))
