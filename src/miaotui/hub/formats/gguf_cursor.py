"""Reads GGUF's primitive values, one after another, from a buffer that is not trusted.

Owns every bound: nothing is read, and no memory taken, before the bytes it needs are known to be
there. Knows the encoding of values, not what they mean. Invariant: memory taken is at most
proportional to the header's size, which itself is bounded, and no length is believed.
Source: the GGUF specification (``gguf_metadata_value_t``).
"""

from __future__ import annotations

import mmap
import struct

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.tensors import TRUNCATED

Scalar = int | float | bool | str
# Arrays of numbers and booleans are read-only NumPy arrays; arrays of strings are lists.
Value = Scalar | list[str] | NDArray[np.generic]

MAX_HEADER_BYTES = 1 << 28  # the largest known tokenizers take about 2**24
MAX_STRINGS = 1 << 22  # in all arrays of a file together; the largest known has 2**20
MAX_NAME_BYTES = 1 << 10

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
_BOOL, _STRING, _ARRAY = 7, 8, 9


class Strings:
    """An array of strings whose lengths are checked but which is not decoded before it is used."""

    def __init__(self, cursor: Cursor, count: int) -> None:
        self._cursor, self._count = cursor, count

    def decode(self) -> list[str]:
        """Return all strings. Raises `ModelFormatError` when one is not UTF-8."""
        cursor = self._cursor
        buffer, position = cursor.buffer, cursor.position
        read_u64 = _U64.unpack_from
        strings = []
        try:
            for _ in range(self._count):
                (length,) = read_u64(buffer, position)
                position += 8
                end = position + length
                strings.append(buffer[position:end].decode())
                position = end
        except (UnicodeDecodeError, struct.error) as error:  # the latter: changed while in use
            raise cursor.corrupt(f"string {len(strings)} of an array is not UTF-8") from error
        return strings


class Cursor:
    """A position in a buffer, moving forward over checked values. ``label`` names the file."""

    def __init__(self, buffer: mmap.mmap | bytes, label: str, position: int = 0) -> None:
        self.buffer = buffer
        self.label = label
        self.position = position
        self._end = min(len(buffer), MAX_HEADER_BYTES)
        self._strings_left = MAX_STRINGS

    def corrupt(self, what: str) -> ModelFormatError:
        """Return the error that says ``what`` is wrong with this file."""
        return ModelFormatError(f"{self.label}: {what}; {TRUNCATED}")

    def require(self, size_bytes: int, what: str) -> None:
        """Raise `ModelFormatError` unless ``size_bytes`` more bytes are there for ``what``."""
        left = self._end - self.position
        if size_bytes <= left:
            return
        if self._end < len(self.buffer):
            raise self.corrupt(f"{what} exceeds the {MAX_HEADER_BYTES} bytes allowed for a header")
        raise self.corrupt(f"{what} takes {size_bytes} bytes, but the file has {left} more")

    def take(self, size_bytes: int, what: str) -> bytes:
        """Return the next bytes, as a copy."""
        self.require(size_bytes, what)
        start = self.position
        self.position += size_bytes
        return self.buffer[start : self.position]

    def u32(self, what: str) -> int:
        """Return a 32-bit unsigned integer."""
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        """Return a 64-bit unsigned integer."""
        return int(_U64.unpack(self.take(8, what))[0])

    def count(self, item_bytes: int, limit: int, what: str) -> int:
        """Return a 64-bit count of items of at least ``item_bytes`` each, all of which may be there."""
        count = self.u64(f"the number of {what}")
        if count > limit:
            raise self.corrupt(f"it claims {count} {what}, where at most {limit} are allowed")
        self.require(count * item_bytes, f"the list of {count} {what}")
        return count

    def string(self, what: str, limit: int = MAX_HEADER_BYTES) -> str:
        """Return a string of at most ``limit`` bytes."""
        length = self.u64(f"the length of {what}")
        if length > limit:
            raise self.corrupt(f"{what} is {length} bytes long, where at most {limit} are allowed")
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError as error:
            raise self.corrupt(f"{what} is not UTF-8") from error

    def value(self, key: str) -> Value | Strings:
        """Return a type id and a value of that type."""
        kind = self.u32(f"the type of {key!r}")
        if kind == _STRING:
            return self.string(f"the value of {key!r}")
        if kind == _ARRAY:
            return self._array(key)
        scalar = self._numbers(kind, 1, key)[0].item()
        return scalar if isinstance(scalar, bool | float) else int(scalar)

    def _array(self, key: str) -> NDArray[np.generic] | Strings:
        kind = self.u32(f"the element type of {key!r}")
        if kind == _ARRAY:
            raise UnsupportedModelError(
                f"{self.label}: {key!r} is an array of arrays, which no known model uses; "
                "convert the model again with a current version of llama.cpp"
            )
        elements = f"elements of {key!r}"
        if kind != _STRING:
            return self._numbers(kind, self.count(1, MAX_HEADER_BYTES, elements), key)
        count = self.count(8, self._strings_left, elements)
        self._strings_left -= count
        strings = Strings(Cursor(self.buffer, self.label, self.position), count)
        self._skip_strings(count, key)
        return strings

    def _skip_strings(self, count: int, key: str) -> None:
        """Skip strings, checking each length; the hot loop of opening a model."""
        buffer, position = self.buffer, self.position
        last = self._end - 8  # where a length may still start
        read_u64 = _U64.unpack_from
        for i in range(count):
            if position > last:
                raise self.corrupt(f"string {i} of {key!r} starts beyond the end of the file")
            position += 8 + read_u64(buffer, position)[0]
        self.require(position - self.position, f"the array {key!r}")
        self.position = position

    def _numbers(self, kind: int, count: int, key: str) -> NDArray[np.generic]:
        dtype = np.dtype(_NUMBERS.get(kind, "u1"))
        if kind not in _NUMBERS and kind != _BOOL:
            raise self.corrupt(f"{key!r} has the unknown value type {kind}")
        raw = self.take(count * dtype.itemsize, f"the value of {key!r}")
        numbers = np.frombuffer(raw, dtype)
        if kind != _BOOL:
            return numbers
        if count and numbers.max() > 1:
            raise self.corrupt(f"{key!r} is neither true nor false")
        return numbers.view(np.bool_)
