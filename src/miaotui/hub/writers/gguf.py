"""Writes a GGUF file with the metadata of another one and other tensors.

Owns the table of tensors. The metadata is copied byte by byte, but for the type of file where that is asked for. Knows
no model. Invariant: `gguf` reads the file back.
Source: the GGUF specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Mapping
from typing import IO

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.gguf import MAGIC, metadata_span, metadata_value
from miaotui.hub.formats.tensors import BlockType, stored_bytes

VERSION = 3
FILE_TYPE = "general.file_type"


def write_gguf(
    file: IO[bytes],
    source: mmap.mmap | bytes,
    sizes: Mapping[str, tuple[BlockType, tuple[int, ...]]],
    data: Iterable[NDArray[np.uint8]],
) -> None:
    """Write the metadata of the GGUF file in ``source``, and tensors of these kinds and shapes.

    The bytes of the tensors come in the same order, each tensor's in one piece or several. Raises `ModelFormatError`
    for a damaged ``source``.
    """
    span = metadata_span(source, "the model")
    head = MAGIC + struct.pack("<IQQ", VERSION, len(sizes), span.keys) + bytes(source[span.start : span.end])
    offset = 0
    for name, (kind, shape) in sizes.items():
        text = name.encode()
        head += struct.pack("<Q", len(text)) + text + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *shape[::-1]) + struct.pack("<IQ", kind.ggml_id, offset)
        offset += _padded(stored_bytes(name, shape, kind), span.alignment)
    file.write(head.ljust(_padded(len(head), span.alignment), b"\0"))
    pieces = iter(data)
    for name, (kind, shape) in sizes.items():
        left = size = stored_bytes(name, shape, kind)
        while left > 0:
            piece = next(pieces)
            file.write(piece.tobytes())
            left -= piece.nbytes
        if left:
            raise ValueError(f"the pieces of {name} have more than its {size} bytes")
        file.write(b"\0" * (_padded(size, span.alignment) - size))


def with_file_type(source: mmap.mmap | bytes, label: str, file_type: int) -> bytes:
    """Return the head of a GGUF file, without tensors, whose ``general.file_type`` is ``file_type``.

    Give it to `write_gguf` as ``source``. ``label`` names the file in errors. Raises as `read_gguf`.
    """
    return with_integers(source, label, {FILE_TYPE: file_type})


def with_integers(source: mmap.mmap | bytes, label: str, values: Mapping[str, int]) -> bytes:
    """Return the head of a GGUF file, without tensors, in which these keys have these values, as unsigned 32 bits.

    A key that is there, of whatever type, is replaced; others are added. Raises as `read_gguf`.
    """
    span = metadata_span(source, label)
    head = _head(bytes(source[span.start : span.end]), span.keys)
    for key, value in values.items():
        head = _with_value(head, label, key, struct.pack("<II", 4, value))  # type u32
    return head


def _with_value(head: bytes, label: str, key: str, value: bytes) -> bytes:
    """Return a head with one value more, or another one."""
    span, place = metadata_span(head, label), metadata_value(head, label, key)
    metadata = head[span.start : span.end]
    if place is None:
        return _head(metadata + struct.pack("<Q", len(key)) + key.encode() + value, span.keys + 1)
    start, end = place.start - span.start, place.stop - span.start
    return _head(metadata[:start] + value + metadata[end:], span.keys)


def _head(metadata: bytes, keys: int) -> bytes:
    return MAGIC + struct.pack("<IQQ", VERSION, 0, keys) + metadata


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
