"""The digest of a model's files: equal digests, equal bytes of all that decides an answer.

Owns the choice of files and the sum over them. Unlike `store.content_key`, which is a key in milliseconds for a cache
on one machine, every byte counts, and neither names nor times do.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from miaotui.errors import ModelNotFoundError
from miaotui.hub.store import files_of

_READ_BYTES = 1 << 20


def model_digest(path: Path) -> str:
    """Return SHA-256 over all bytes of a model's files, as 64 hex digits; about a second for a gigabyte.

    ``path`` is a file (with all its parts) or a folder, whose weights, configuration and tokenizer count. Raises
    `ModelNotFoundError` for files that cannot be read.
    """
    total = hashlib.sha256()
    try:
        for file in files_of(path):
            each = hashlib.sha256()
            with file.open("rb") as content:
                while piece := content.read(_READ_BYTES):
                    each.update(piece)
            total.update(each.digest())
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelNotFoundError(
            f"cannot read the model at {path}: {reason}. Check the path and its permissions"
        ) from error
    return total.hexdigest()
