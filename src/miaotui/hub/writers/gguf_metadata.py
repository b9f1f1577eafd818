"""Writes the metadata of a GGUF file from Python values.

Owns the numbers of GGUF's value types. Knows no key. Invariant: `gguf` reads every value back, floats as float32.
Source: the GGUF specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from miaotui.hub.formats.gguf import MAGIC
from miaotui.hub.writers.gguf import VERSION

MetadataValue = bool | int | float | str | Sequence[bool] | Sequence[int] | Sequence[float] | Sequence[str]
_UNSIGNED, _SIGNED, _FLOAT, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_FORMS = {_UNSIGNED: "<I", _SIGNED: "<i", _FLOAT: "<f", _BOOL: "<B"}


def metadata_head(values: Mapping[str, MetadataValue]) -> bytes:
    """Return the head of a GGUF file, without tensors, that has these values. Give it to `write_gguf` as its source.

    Whole numbers become 32 bits, unsigned where they stand alone and signed in lists. Raises `ValueError` for an empty
    list, whose type is unknown.
    """
    parts = [MAGIC + struct.pack("<IQQ", VERSION, 0, len(values))]
    for key, value in values.items():
        parts.append(_string(key))
        if isinstance(value, bool | int | float | str):
            kind = _kind(value, _UNSIGNED)
            parts.append(struct.pack("<I", kind) + _encoded(value, kind))
            continue
        if not value:
            raise ValueError(f"the list under {key} is empty")
        kind = _kind(value[0], _SIGNED)
        parts.append(struct.pack("<IIQ", _ARRAY, kind, len(value)))
        parts.extend(_encoded(each, kind) for each in value)
    return b"".join(parts)


def _kind(value: bool | float | str, whole: int) -> int:
    if isinstance(value, str):
        return _STRING
    if isinstance(value, bool):
        return _BOOL
    return whole if isinstance(value, int) else _FLOAT


def _encoded(value: bool | float | str, kind: int) -> bytes:
    return _string(value) if isinstance(value, str) else struct.pack(_FORMS[kind], value)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded
