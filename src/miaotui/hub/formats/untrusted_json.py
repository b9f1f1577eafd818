"""Parses JSON of model files that are not trusted: their headers, indexes and configurations.

Owns the bounds that Python's parser lacks: size, depth, length of integers, duplicate keys. Knows
no file format. Invariant: the result is a dict, or a `ModelFormatError` says why not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from miaotui.errors import ModelError, ModelFormatError, ModelNotFoundError

MAX_JSON_BYTES = 1 << 23  # indexes of the largest known models take about 2**22


def parse_object(text: bytes, label: str) -> dict[str, Any]:
    """Return the JSON object that ``text`` holds; ``label`` names the file in errors.

    Raises `ModelFormatError` for anything but one object of unique keys.
    """
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique, parse_int=_integer, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        problem = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ModelFormatError(
            f"{label} is not valid JSON: {problem}; the file is corrupt: download it again"
        ) from error
    if not isinstance(value, dict):
        raise ModelFormatError(f"{label} holds a {type(value).__name__}, not a JSON object; download it again")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file at ``path``, which is at most 8 MiB long.

    Raises `ModelNotFoundError`, `ModelError` (unreadable) or `ModelFormatError`.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_JSON_BYTES + 1)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"there is no file {path}; download the model again") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}; check its permissions") from error
    if len(text) > MAX_JSON_BYTES:
        raise ModelFormatError(f"{path} is longer than {MAX_JSON_BYTES} bytes, too long for JSON")
    return parse_object(text, str(path))


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"the key {name[:200]!r} occurs twice")
        members[name] = value
    return members


def _integer(digits: str) -> int:
    # Before Python 3.10.7, converting a long integer took time quadratic in its length.
    if len(digits) > 20:
        raise ValueError(f"an integer of {len(digits)} digits is too long")
    return int(digits)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
