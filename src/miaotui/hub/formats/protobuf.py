"""Reads protocol buffers' wire format from a buffer that is not trusted, without a schema.

Owns varints, lengths and their bounds. Knows no message's meaning. Invariant: a field lies whole within the message
that holds it, and no length is believed; nothing is copied. Source: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

from miaotui.errors import ModelFormatError
from miaotui.hub.formats.tensors import TRUNCATED

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10
_F32 = struct.Struct("<f")


class WireField(NamedTuple):
    """One field: its number, wire type, and value, or the ``start`` and ``end`` of its bytes in the buffer."""

    number: int
    wire: int
    value: int
    start: int
    end: int


class WireReader:
    """Reader of messages in ``buffer``; ``label`` names the file in errors."""

    def __init__(self, buffer: mmap.mmap | bytes, label: str) -> None:
        self.buffer = buffer
        self.label = label

    def corrupt(self, problem: str) -> ModelFormatError:
        """Return the error that says what is wrong with this file."""
        return ModelFormatError(f"{self.label}: {problem}; {TRUNCATED}")

    def fields(self, start: int, end: int) -> Iterator[WireField]:
        """Yield the fields of the message in bytes [start, end), in order. Raises `ModelFormatError`."""
        position = start
        while position < end:
            key, position = self._varint(position, end)
            number, wire = key >> 3, key & 7
            begin = position
            value = 0
            if wire == VARINT:
                value, position = self._varint(position, end)
            elif wire == LENGTH:
                length, begin = self._varint(position, end)
                position = begin + length
            elif wire in (FIXED32, FIXED64):
                position += 4 if wire == FIXED32 else 8
            else:
                raise self.corrupt(f"a field of unknown wire type {wire} at byte {begin}")
            if position > end or number == 0:
                raise self.corrupt(f"a field at byte {begin} reaches beyond its message, or has no number")
            yield WireField(number, wire, value, begin, position)

    def varints(self, field: WireField) -> Iterator[int]:
        """Yield the values of a repeated integer field, packed or not, as signed 64-bit integers."""
        if field.wire == VARINT:
            yield signed(field.value)
            return
        self.require(field, LENGTH)
        position = field.start
        while position < field.end:
            value, position = self._varint(position, field.end)
            yield signed(value)

    def text(self, field: WireField, limit: int) -> str:
        """Return a text of at most ``limit`` bytes."""
        self.require(field, LENGTH)
        if field.end - field.start > limit:
            raise self.corrupt(f"a text of {field.end - field.start:,} bytes, where {limit:,} are allowed")
        try:
            return self.buffer[field.start : field.end].decode()
        except UnicodeDecodeError as error:
            raise self.corrupt(f"the text at byte {field.start} is not UTF-8") from error

    def float(self, field: WireField) -> float:
        """Return a 32-bit float."""
        self.require(field, FIXED32)
        return float(_F32.unpack(self.buffer[field.start : field.end])[0])

    def require(self, field: WireField, wire: int) -> None:
        """Raise `ModelFormatError` unless ``field`` is of this wire type."""
        if field.wire != wire:
            raise self.corrupt(f"field {field.number} at byte {field.start} is of wire type {field.wire}, not {wire}")

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 7 * MAX_VARINT_BYTES, 7):
            if position >= end:
                raise self.corrupt(f"a number at byte {position} is cut off")
            byte = self.buffer[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, position
        raise self.corrupt(f"a number before byte {position} has more than {MAX_VARINT_BYTES} bytes")


def signed(value: int) -> int:
    """Return an unsigned 64-bit integer as the signed one of the same bits."""
    return value - (1 << 64) if value >= 1 << 63 else value
