"""Folders of safetensors as sources: a GGUF copy of each is made once and kept in the cache.

Owns the place of the copies, and the record beside each that says which folder it is of. Knows neither tensors nor
methods. Invariant: a copy is named by the digest of the folder's files, so that another version of the model is never
taken for this one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from miaotui.config import Settings
from miaotui.errors import MiaotuiError
from miaotui.model.encoder.opened import is_encoder
from miaotui.model.writing.encoder_copy import write_encoder_copy
from miaotui.model.writing.gguf_copy import write_gguf_copy
from miaotui.optimize.origin import Origin, described, model_digest, origin_path, read_origin, write_origin
from miaotui.types import Progress

MADE_BY = "copy"


def as_gguf(path: Path, settings: Settings, progress: Progress | None = None) -> Path:
    """Return the GGUF file of the model at ``path``: the file itself, or the copy of a folder.

    Raises a `ModelError` for a folder that cannot be read, or not be written in this form, and `CacheError` for lack of
    room.
    """
    if not path.is_dir():
        return path
    if progress is not None:
        progress("copying the folder to a GGUF file", 0, None)
    copy = settings.folder("optimize") / f"{path.name}-{model_digest(path)[:16]}.gguf"
    if not copy.is_file():
        (write_encoder_copy if is_encoder(path) else write_gguf_copy)(path, copy)
    if not origin_path(copy).is_file():
        write_origin(copy, Origin(MADE_BY, described(copy.name, copy), (described(path.name, path),), {}, {}))
    return copy


def copied_folder(file: Path) -> dict[str, Any] | None:
    """Return name, bytes and digest of the folder that ``file`` is a copy of; None if it is none."""
    try:
        origin = read_origin(file)
    except MiaotuiError:
        return None
    return dict(origin.sources[0]) if origin.made_by == MADE_BY and origin.sources else None
