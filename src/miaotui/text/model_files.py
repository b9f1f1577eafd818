"""Reads the small text files beside a model's weights, within bounds.

Owns sizes and JSON. Does not know what the files mean, but for how they name a special token.
Invariant: a missing file is empty; a damaged one is a `ModelFormatError` that names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miaotui.errors import ModelFormatError

MAX_BYTES = 16 << 20


def read_text(path: Path) -> str:
    """Return the text of a file; one that is no plain file is not opened, as a pipe would never end."""
    try:
        if not path.is_file():
            raise ModelFormatError(f"{path} is not a plain file; get the model's folder again")
        if path.stat().st_size > MAX_BYTES:
            raise ModelFormatError(f"{path} is larger than {MAX_BYTES:,} bytes; get it again")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFormatError(f"{path} cannot be read as UTF-8 text: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{path} is not JSON ({error}); get it again") from error
    if not isinstance(value, dict):
        raise ModelFormatError(f"{path} must hold a JSON object; get it again")
    return value


def token_text(config: Mapping[str, Any], name: str) -> str:
    """Return the text of a special token such as ``bos_token``: written plainly or with its options.

    Raises `ModelFormatError` for half a character, which JSON can write and nothing can encode.
    """
    value = config.get(name)
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str):
        return ""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ModelFormatError(
            f"{name} of the model's tokenizer holds half a character: the file is damaged; get it again"
        )
    return text
