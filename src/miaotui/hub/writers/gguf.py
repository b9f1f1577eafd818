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
    span = metadata_span(source, label)
    metadata, keys = bytes(source[span.start : span.end]), span.keys
    place = metadata_value(source, label, FILE_TYPE)
    value = struct.pack("<II", 4, file_type)  # type u32
    if place is None:
        metadata, keys = metadata + struct.pack("<Q", len(FILE_TYPE)) + FILE_TYPE.encode() + value, keys + 1
    else:
        start, end = place.start - span.start, place.stop - span.start
        metadata = metadata[:start] + value + metadata[end:]
    return MAGIC + struct.pack("<IQQ", VERSION, 0, keys) + metadata


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
