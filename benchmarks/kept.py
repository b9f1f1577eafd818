"""Embeddings that stay in a folder, so that a benchmark that was ended goes on where it was.

Owns the files: one for each part of 50 texts, named by what made it and by the texts' digest. Knows no models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
PART = 50


def kept(folder: Path | None, name: str, texts: Sequence[Any], embed: Callable[[Any], Floats]) -> Floats:
    """Return embeddings, float32 ``[texts, dimensions]``; parts that an earlier run made are read from ``folder``."""
    return np.concatenate([_part(folder, name, texts[i : i + PART], embed) for i in range(0, len(texts), PART)])


def _part(folder: Path | None, name: str, texts: Sequence[Any], embed: Callable[[Any], Floats]) -> Floats:
    if folder is None:
        return np.asarray(embed(texts), np.float32)
    digest = blake2b(json.dumps(texts).encode(), digest_size=6).hexdigest()
    file = folder / f"{name}-{digest}.npy"
    if file.exists():
        read: Floats = np.load(file)
        return read
    found = np.asarray(embed(texts), np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part.npy")
    np.save(part, found)
    part.replace(file)
    return found
