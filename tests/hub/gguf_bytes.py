"""Builds GGUF files byte by byte, also ones that no writer would write."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

U8, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 6, 7, 8, 9, 10


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw)) + raw


def strings(*values: str | bytes) -> bytes:
    """The value of an array of strings: element type, count, elements."""
    return u32(STRING) + u64(len(values)) + b"".join(map(text, values))


@dataclass
class Tensor:
    name: str | bytes
    dims: tuple[int, ...]  # fastest first, as in the file
    kind: int = 0
    offset: int = 0

    def build(self) -> bytes:
        dims = b"".join(map(u64, self.dims))
        return text(self.name) + u32(len(self.dims)) + dims + u32(self.kind) + u64(self.offset)


@dataclass
class Gguf:
    """A file's parts; every one can be wrong. ``keys`` are (key, type, encoded value)."""

    keys: list[tuple[str | bytes, int, bytes]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    data: bytes = b""
    magic: bytes = b"GGUF"
    version: int = 3
    n_tensors: int | None = None
    n_keys: int | None = None
    alignment: int = 32

    def build(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_keys = len(self.keys) if self.n_keys is None else self.n_keys
        header = self.magic + u32(self.version) + u64(n_tensors) + u64(n_keys)
        header += b"".join(text(key) + u32(kind) + value for key, kind, value in self.keys)
        header += b"".join(tensor.build() for tensor in self.tensors)
        if not self.data:
            return header
        return header + bytes(-len(header) % self.alignment) + self.data


def sample() -> Gguf:
    """A small valid file with values of several types and three tensors of 32, 2 x 32 and 4."""
    return Gguf(
        keys=[
            ("general.architecture", STRING, text("llama")),
            ("llama.block_count", U32, u32(2)),
            ("llama.rope.freq_base", F32, struct.pack("<f", 10000.0)),
            ("tokenizer.ggml.add_bos_token", BOOL, b"\1"),
            ("tokenizer.ggml.tokens", ARRAY, strings("<s>", "", "a", "Ġ秒")),
            ("tokenizer.ggml.scores", ARRAY, u32(F32) + u64(2) + struct.pack("<ff", 0.5, -1)),
        ],
        tensors=[Tensor("norm", (32,), 0, 0), Tensor("embed", (32, 2), 2, 128), Tensor("bias", (4,), 1, 192)],
        data=bytes(range(200)),
    )
