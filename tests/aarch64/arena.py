"""A memory image and calls into it: what two processors do with the same bytes can be compared.

An `Arena` is one block of memory whose parts know their offsets; arguments of a call are offsets
(`Place`), integers or floats. `run_here` executes the calls on this machine; `driver` is a C program
that executes them on another. Both return the image as it is afterwards.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from miaotui.kernels.runtime.thread_pool import address_of, aligned_bytes


@dataclass(frozen=True)
class Place:
    """An offset that becomes an address."""

    offset: int


@dataclass(frozen=True)
class Call:
    """A function by name, and its arguments."""

    function: str
    arguments: tuple[Place | int | float, ...]


@dataclass
class Arena:
    """Memory parts at multiples of 64, the addresses that lie in it, and the calls to make."""

    parts: list[NDArray[np.uint8]] = field(default_factory=list)
    size: int = 0
    addresses: dict[int, int] = field(default_factory=dict)  # where: the offset to point to
    calls: list[Call] = field(default_factory=list)

    def put(self, values: NDArray[np.generic]) -> Place:
        """Copy an array in."""
        raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self.parts.append(np.pad(raw, (0, -raw.size % 64 + 64)))
        place = Place(self.size)
        self.size += self.parts[-1].size
        return place

    def room(self, size_bytes: int) -> Place:
        """Marked memory for results."""
        return self.put(np.full(size_bytes, 0xA5, np.uint8))

    def put_table(self, fields: Mapping[int, Place | int], length: int) -> Place:
        """Int64 fields; places become addresses when the calls are made."""
        table = np.zeros(length, np.int64)
        place = self.put(table)
        for number, value in fields.items():
            if isinstance(value, Place):
                self.addresses[place.offset + 8 * number] = value.offset
            else:
                self.parts[-1].view(np.int64)[number] = value
        return place

    def call(self, function: str, *arguments: Place | int | float) -> None:
        """Add a call."""
        self.calls.append(Call(function, arguments))

    def image(self) -> NDArray[np.uint8]:
        """The memory before the calls."""
        return np.concatenate(self.parts)


def run_here(arena: Arena, functions: Mapping[str, Callable[..., None]]) -> NDArray[np.uint8]:
    """Make the calls on this machine; the memory afterwards, without addresses."""
    memory = aligned_bytes(arena.size)
    memory[:] = arena.image()
    base = address_of(memory)
    for at, offset in arena.addresses.items():
        memory[at : at + 8].view(np.int64)[0] = base + offset
    for call in arena.calls:
        functions[call.function](*(base + a.offset if isinstance(a, Place) else a for a in call.arguments))
    for at in arena.addresses:
        memory[at : at + 8] = 0
    return memory


def driver(arena: Arena, signatures: Mapping[str, str]) -> str:
    """A C program: ``program image result`` makes the calls on an image of the arena."""
    kinds = {"i": "int64_t", "f": "float"}
    used = sorted({call.function for call in arena.calls})
    declared = [f"void {name}({', '.join(kinds[letter] for letter in signatures[name])});" for name in used]
    fixed = [f"  *(int64_t *)(m + {at}) = (int64_t)(m + {to});" for at, to in arena.addresses.items()]
    calls = [f"  {c.function}({', '.join(map(_c_argument, c.arguments))});" for c in arena.calls]
    cleared = [f"  *(int64_t *)(m + {at}) = 0;" for at in arena.addresses]
    return "\n".join([_HEAD, *declared, _OPEN.format(size=arena.size), *fixed, *calls, *cleared, _CLOSE])


def _c_argument(argument: Place | int | float) -> str:
    if isinstance(argument, Place):
        return f"(int64_t)(m + {argument.offset})"
    return float(argument).hex() + "f" if isinstance(argument, float) else str(argument)


_HEAD = """#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
"""
_OPEN = """
enum {{ SIZE = {size} }};

int main(int count, char **names) {{
  FILE *file = count == 3 ? fopen(names[1], "rb") : 0;
  char *m = aligned_alloc(64, SIZE);
  if (!file || !m || fread(m, 1, SIZE, file) != SIZE) return 1;
"""
_CLOSE = """
  file = fopen(names[2], "wb");
  if (!file || fwrite(m, 1, SIZE, file) != SIZE || fclose(file)) return 2;
  return 0;
}
"""


def first_difference(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> int | None:
    """The offset of the first byte that differs."""
    where = np.flatnonzero(found != expected)
    return int(where[0]) if where.size else None


def float_bits(value: float) -> int:
    """A float32 as an integer field."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])
