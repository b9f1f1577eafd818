"""Whatever a GGUF file's bytes are, reading it ends in its values or in a `ModelError`, soon."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
from gguf_bytes import ARRAY, STRING, Gguf, Tensor, sample, text, u32, u64
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.errors import ModelError
from miaotui.hub.formats.gguf import parse_gguf

VALID = sample().build()
MEMORY_BYTES = 1 << 20  # for files of at most a few thousand bytes

# Numbers that make sums and products overflow, or land next to a bound.
EDGES = st.sampled_from([0, 1, 2, 31, 32, 33, 255, 2**16, 2**22, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 32, 2**64 - 1])
NUMBERS = EDGES | st.integers(0, 2**64 - 1)


def use(content: bytes) -> None:
    """Read everything that a file holds; only a `ModelError` may come out."""
    message = "fuzz.gguf"
    try:
        file = parse_gguf(content, "fuzz.gguf")
        for key in file.metadata:
            assert file.metadata[key] is not None
        for tensor in file.tensors.values():
            with np.errstate(all="ignore"):
                assert tensor.float32().size == np.prod(tensor.shape)
    except ModelError as error:
        message = str(error)
    assert "fuzz.gguf" in message


def bounded(content: bytes) -> None:
    tracemalloc.start()
    try:
        use(content)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES
    finally:
        tracemalloc.stop()


@given(st.integers(0, len(VALID) - 1), st.binary(max_size=8), st.integers(0, 8))
def test_mutated_files(at: int, new: bytes, removed: int) -> None:
    bounded(VALID[:at] + new + VALID[at + removed :])


@given(st.integers(0, len(VALID) - 8), NUMBERS, st.integers(0, len(VALID)))
def test_numbers_anywhere(at: int, number: int, size: int) -> None:
    bounded((VALID[:at] + struct.pack("<Q", number) + VALID[at + 8 :])[: at + 8 + size])


@given(st.binary(max_size=200))
def test_random_bytes_behind_a_header(content: bytes) -> None:
    bounded(content)
    bounded(b"GGUF" + u32(3) + content)
    bounded(b"GGUF" + u32(3) + u64(0) + u64(1) + text("k") + content)
    bounded(b"GGUF" + u32(3) + u64(1) + u64(0) + text("t") + content)


KINDS = st.integers(0, 13) | st.integers(0, 2**32 - 1)
ARRAYS = st.builds(
    lambda kind, count, content: u32(kind) + u64(count) + content,
    KINDS,
    st.integers(0, 5) | NUMBERS,
    st.binary(max_size=30),
)
STRINGS = st.builds(
    lambda parts, count: u32(STRING) + u64(count) + b"".join(map(text, parts)),
    st.lists(st.binary(max_size=5), max_size=4),
    st.integers(0, 5),
)
KEYS = st.one_of(
    st.tuples(st.text(max_size=3), KINDS, st.binary(max_size=12)),
    st.tuples(st.text(max_size=3), st.just(ARRAY), ARRAYS | STRINGS),
    st.tuples(st.just("general.alignment"), st.just(4), st.integers(0, 2**32 - 1).map(u32)),
)
TENSORS = st.builds(
    Tensor,
    st.text(max_size=2),
    st.lists(st.integers(0, 4).map(lambda n: n * 32) | NUMBERS, max_size=5).map(tuple),
    st.integers(0, 31),
    st.integers(0, 8).map(lambda n: n * 32) | NUMBERS,
)


@settings(max_examples=300)
@given(st.lists(KEYS, max_size=3), st.lists(TENSORS, max_size=3), st.integers(0, 600), st.none() | NUMBERS)
def test_random_headers(
    keys: list[tuple[str | bytes, int, bytes]], tensors: list[Tensor], data_bytes: int, count: int | None
) -> None:
    use(Gguf(keys, tensors, bytes(data_bytes), n_tensors=count).build())
