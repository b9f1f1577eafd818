"""GGUF models in several files, ``name-00001-of-00003.gguf``: which files belong together, by their names.

Owns the form of these names (llama.cpp's ``llama_split_path``). Opens no file; `gguf` reads the parts and checks what
each says of itself. Invariant: a model is named by its first part, and a list of parts is complete or refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from miaotui.errors import ModelNotFoundError

MAX_PARTS = 1000

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)", re.IGNORECASE)


def first_parts(names: Iterable[str]) -> list[str]:
    """Return ``names`` without the later parts of models in parts."""
    found = ((name, _PART.fullmatch(name)) for name in names)
    return [name for name, part in found if part is None or int(part["number"]) == 1]


def parts_of_name(name: str, present: Iterable[str]) -> tuple[str, ...]:
    """Return the names of all parts of the model that ``name`` is the first part of; of others ``name`` alone.

    Raises `ModelNotFoundError`, naming them, for parts that are not among ``present``.
    """
    names = part_names(name)
    there = set(present)
    missing = [part for part in names if part not in there]
    if missing:
        raise ModelNotFoundError(
            f"{name} is one of {len(names)} parts, of which are missing: {', '.join(missing[:8])}. "
            "Put all parts into one folder and name the first"
        )
    return names


def part_names(name: str) -> tuple[str, ...]:
    """Return the names of all parts of a model from the name of one; ``name`` alone if it is no part.

    Raises `ModelNotFoundError` for a count that no model has.
    """
    part = _PART.fullmatch(name)
    if part is None:
        return (name,)
    count = int(part["count"])
    if not 1 <= count <= MAX_PARTS or not 1 <= int(part["number"]) <= count:
        raise ModelNotFoundError(
            f"{name} says it is part {part['number']} of {part['count']}; expected 1 to {MAX_PARTS}"
        )
    return tuple(f"{part['stem']}-{i + 1:05}-of-{part['count']}{part['suffix']}" for i in range(count))


def part_paths(path: Path) -> tuple[Path, ...]:
    """Return the files of the GGUF model at ``path``, in order; raises `ModelNotFoundError` for missing ones."""
    names = part_names(path.name)
    if len(names) == 1:
        return (path,)
    present = [name for name in names if path.with_name(name).is_file()]
    return tuple(path.with_name(name) for name in parts_of_name(names[0], present))
