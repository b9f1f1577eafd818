"""Attention: bit for bit what the reference says, however rows are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from kernel_pass import assert_same, assert_same_bytes
from paged_attention import Cache, Kind, Row, block_sizes, chunk_rows, expected

from miaotui.kernels import reference
from miaotui.kernels.attention.fields import PAGE_TOKENS
from miaotui.kernels.reference import Bytes, Floats, Views

PAGES = (7, 2, 9, 4, 0)  # a sequence's pages lie anywhere
GROUPS, DIMS = (1, 2, 3, 4, 8), (32, 64, 96, 128, 256)


def decode(kind: Kind, tokens: Floats, threads: int = 1) -> tuple[Bytes, Cache]:
    """Token after token."""
    cache = Cache(kind, threads=threads)
    return joined([cache.chunk(tokens[i : i + 1], i, PAGES) for i in range(len(tokens))]), cache


def in_chunks(kind: Kind, tokens: Floats, sizes: Sequence[int]) -> tuple[Bytes, Cache]:
    """The same, several at a time."""
    cache, outputs, start = Cache(kind), [], 0
    for size in sizes:
        outputs.append(cache.chunk(tokens[start : start + size], start, PAGES))
        start += size
    assert start == len(tokens)
    return joined(outputs), cache


def joined(parts: Sequence[Bytes]) -> Bytes:
    return Bytes(np.concatenate([part.integers for part in parts]), np.concatenate([part.scales for part in parts]))


def rows_of(values: Bytes, rows: Sequence[int]) -> Bytes:
    return Bytes(values.integers[list(rows)], values.scales[list(rows)])


def check(kind: Kind, count: int) -> None:
    """Alone, all at once, and in uneven chunks: the reference's bits, and the same cache."""
    tokens = kind.tokens(count)
    wanted = expected(kind, tokens)
    alone, cache = decode(kind, tokens)
    assert_same_bytes(alone, wanted)
    for sizes in ([count], [1, 6, 8, count - 15]):
        together, other = in_chunks(kind, tokens, sizes)
        assert_same_bytes(together, wanted)
        assert_same(other.pages(), cache.pages())


@pytest.mark.parametrize("int8", [False, True], ids=["f16", "int8"])
@pytest.mark.parametrize("group", GROUPS)
def test_a_row_alone_is_the_row_among_others(group: int, int8: bool) -> None:
    check(Kind(group=group, dim=64, int8=int8), 37)


@pytest.mark.parametrize("int8", [False, True], ids=["f16", "int8"])
@pytest.mark.parametrize("dim", DIMS)
def test_heads_of_any_size(dim: int, int8: bool) -> None:
    check(Kind(kv_heads=1, group=3, dim=dim, int8=int8), 21)


@pytest.mark.parametrize("int8", [False, True], ids=["f16", "int8"])
@pytest.mark.parametrize("window", [1, 5, 16, 17, 40])
def test_windows(window: int, int8: bool) -> None:
    check(Kind(window=window, dim=32, int8=int8), 53)


@pytest.mark.parametrize("int8", [False, True], ids=["f16", "int8"])
@pytest.mark.parametrize("window", [0, 9])
def test_capped_scores(window: int, int8: bool) -> None:
    check(Kind(group=3, dim=32, cap=1.5, window=window, int8=int8), 29)


@pytest.mark.parametrize("rotated", [0, 32, 64, 96])
def test_heads_rotated_in_part(rotated: int) -> None:
    check(Kind(dim=96, rotated=rotated), 19)


@pytest.mark.parametrize("int8", [False, True], ids=["f16", "int8"])
def test_normed_queries_and_keys(int8: bool) -> None:
    check(Kind(dim=128, normed=True, int8=int8), 19)


@pytest.mark.parametrize("int8", [False, True])
def test_scores_that_fall_with_distance_and_normed_values(int8: bool) -> None:
    check(Kind(kv_heads=3, dim=32, rotated=0, biased=True, int8=int8), 37)
    check(Kind(dim=64, normed=True, values_normed=True, int8=int8), 19)


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_threads_share_the_heads(threads: int) -> None:
    kind = Kind(kv_heads=3, dim=32)
    tokens = kind.tokens(20)
    alone, _ = decode(kind, tokens, threads)
    assert_same_bytes(alone, expected(kind, tokens))
    cache = Cache(kind, threads=threads)
    assert_same_bytes(cache.chunk(tokens, 0, PAGES), alone)


@pytest.mark.parametrize("int8", [False, True], ids=["f16", "int8"])
@pytest.mark.parametrize("window", [0, 7])
@pytest.mark.parametrize("count", [1, 5, 16, 30])
def test_rows_that_see_what_follows(count: int, window: int, int8: bool) -> None:
    """Bidirectional rows: every view ends where the text does."""
    kind = Kind(dim=32, window=window, int8=int8)
    tokens = kind.tokens(count)
    rows = chunk_rows(tokens, 0, PAGES, end=count)
    wanted = expected(kind, tokens, [count] * count)
    assert_same_bytes(Cache(kind).run(rows, block_sizes(count)), wanted)
    assert_same_bytes(Cache(kind).run(rows, [1] * count), wanted)


def test_sequences_share_a_pass() -> None:
    """Two that decode, one that begins, one that goes on; each as if it were alone."""
    kind = Kind(group=4, dim=64)
    texts = [kind.tokens(count, seed) for seed, count in enumerate((18, 33, 11, 24))]
    places = [(0, 1), (4, 2, 3), (7,), (6, 5)]
    begun = [17, 32, 0, 9]
    cache = Cache(kind, threads=2)
    rows: list[Row] = []
    blocks: list[int] = []
    for text, pages, start in zip(texts, places, begun, strict=True):
        if start:
            cache.chunk(text[:start], 0, pages)
        rows += chunk_rows(text[start:], start, pages)
        blocks += block_sizes(len(text) - start)
    wanted = [rows_of(expected(kind, text), range(start, len(text))) for text, start in zip(texts, begun, strict=True)]
    assert_same_bytes(cache.run(rows, blocks), joined(wanted))


@pytest.mark.parametrize("int8", [False, True], ids=["f16", "int8"])
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("count", range(1, 9))
def test_few_rows_of_a_sequence_are_attended_in_parts(count: int, threads: int, int8: bool) -> None:
    """Parts of one block store the same keys; they may also see what follows them."""
    kind = Kind(kv_heads=3, group=3, dim=32, int8=int8)
    for before in (0, 5, 13):
        tokens = kind.tokens(before + count)
        cache = Cache(kind, threads=threads)
        if before:
            cache.chunk(tokens[:before], 0, PAGES)
        found = cache.chunk(tokens[before:], before, PAGES)
        assert_same_bytes(found, rows_of(expected(kind, tokens), range(before, len(tokens))))
    seen = Cache(kind, threads=threads).chunk(tokens[:count], 0, PAGES, end=count)
    assert_same_bytes(seen, expected(kind, tokens[:count], [count] * count))


TREE = (-1, 0, 0, 1, 1, 3, 2, 6)  # the parent of each node; node 0 is the last accepted token


def path_of(node: int) -> tuple[int, ...]:
    """The nodes from the root to this one."""
    return (*path_of(TREE[node]), node) if node >= 0 else ()


@pytest.mark.parametrize("kind", [Kind(), Kind(int8=True, window=11), Kind(cap=2.0)], ids=str)
@pytest.mark.parametrize("prefix", [3, 14, 16, 31])
def test_rows_of_a_tree_are_rows_of_a_line(kind: Kind, prefix: int) -> None:
    """Each path has a private tail: a copy of the last shared page, then pages of its own.

    A node is stored into the tail of every path that it is on, and sees the tail of one of them.
    """
    text, drafts = kind.tokens(prefix), kind.tokens(len(TREE), seed=1)
    leaves = [node for node in range(len(TREE)) if node not in TREE]
    cache = Cache(kind, n_pages=16, threads=2)
    cache.chunk(text, 0, PAGES)
    kept = cache.pages()[list(PAGES)].copy()
    shared, partial = divmod(prefix, PAGE_TOKENS)
    free = iter(page for page in range(cache.n_pages) if page not in PAGES)
    tails = {leaf: (*PAGES[:shared], next(free), next(free)) for leaf in leaves}
    copies = [(PAGES[shared], tail[shared]) for tail in tails.values()] if partial else []
    rows = []
    for node, values in enumerate(drafts):
        position = prefix + len(path_of(node)) - 1
        own = [tails[leaf] for leaf in leaves if node in path_of(leaf)]
        stores = tuple(tail[position // PAGE_TOKENS] for tail in own)
        rows.append(Row(values, position, own[0], stores=stores))
    found = cache.run(rows, [1] * len(rows), copies)
    assert_same(cache.pages()[list(PAGES)], kept)
    for leaf in leaves:
        path = path_of(leaf)
        line, _ = decode(kind, np.concatenate([text, drafts[list(path)]]))
        told = rows_of(line, range(prefix, prefix + len(path)))
        assert_same_bytes(rows_of(found, path), told)


def test_copied_pages_are_whole() -> None:
    kind = Kind(kv_heads=3, dim=32)
    cache = Cache(kind, n_pages=6, threads=2)
    cache.chunk(kind.tokens(16), 0, (1,))
    before = cache.pages().copy()
    row = Row(kind.tokens(1)[0], 16, (3, 5), stores=(5,))
    cache.run([row], [1], copies=[(1, 3), (1, 4)])
    after = cache.pages()
    for page, source in enumerate((0, 1, 2, 1, 1)):
        assert_same(after[page], before[source])


@pytest.mark.parametrize("cap", [0.0, 3.0])
def test_the_reference_is_softmax_attention(cap: float) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((40, 32)) for _ in range(3))
    k, v = np.pad(k, [(0, 8), (0, 0)]), np.pad(v, [(0, 8), (0, 0)])
    views = Views(np.maximum(np.arange(40) - 21, 0), np.arange(40) + 1)
    single = [part.astype(np.float32) for part in (q, k, v)]
    found = reference.attention(*single, views, cap)
    scores = q @ k.T
    scores = cap * np.tanh(scores / cap) if cap else scores
    seen = np.concatenate([views.mask(first) for first in range(0, 48, 16)], axis=1)
    chances = np.where(seen, np.exp(scores), 0)
    np.testing.assert_allclose(found, chances @ v / chances.sum(axis=1, keepdims=True), rtol=2e-5, atol=2e-6)


def test_a_great_score_does_not_overflow() -> None:
    kind = replace(Kind(dim=32), kv_heads=1)
    tokens = kind.tokens(20) * np.float32(60)
    found, _ = decode(kind, tokens)
    assert np.isfinite(found.scales).all()
    assert_same_bytes(found, expected(kind, tokens))
