"""Messages between stages: what was sent is read, and hostile bytes never become addresses; layers and pieces."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.backends.stages.layers import cut_layers, pieces
from miaotui.backends.stages.wire import FrameKind, chunk_fields, logit_rows, prove, read_chunks, receive, send
from miaotui.errors import EngineError, RequestError
from miaotui.schedule.plan import Chunk, DraftTree, RowKind, lay_out, pages_for

PAGES, CONTEXT, ROWS = 64, 512, 256


def line(start: int, count: int, n_logits: int = 1, first_page: int = 0) -> Chunk:
    pages = tuple(range(first_page, first_page + pages_for(start + count)))
    return Chunk(7, start, tuple(range(count)), pages, n_logits, kind=RowKind.PREFILL)


def tree() -> Chunk:
    drafted, taken = DraftTree((1, 2, 3, 4), (-1, 0, -1, 2)), iter(range(40, 60))
    branches = lay_out(drafted, 17, (5, 6), lambda: next(taken))
    return Chunk(1, 17, (9, 1, 2, 3, 4), (5, 6), 5, branches)


def test_chunks_come_as_they_went() -> None:
    chunks = (line(0, 40), tree(), line(3, 1, first_page=9), line(16, 8, 2)._replace(kind=RowKind.ENCODE, n_after=3))
    assert read_chunks(chunk_fields(chunks), ROWS, PAGES, CONTEXT) == chunks
    assert list(logit_rows(chunks)) == [39, 40, 41, 42, 43, 44, 45, 49, 50]


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_chunks_are_refused_or_within_bounds(data: st.DataObject) -> None:
    fields = np.frombuffer(chunk_fields((line(0, 20), tree())), np.int64).copy()
    at = data.draw(st.integers(0, len(fields) - 1))
    fields[at] = data.draw(st.one_of(st.integers(-3, 80), st.integers(-(2**63), 2**63 - 1)))
    cut = data.draw(st.integers(0, 8 * len(fields)))
    raw = fields.tobytes()[: cut if data.draw(st.booleans()) else None]
    try:
        found = read_chunks(raw, ROWS, PAGES, CONTEXT)
    except EngineError:
        return
    for chunk in found:
        lines = [(chunk.start, chunk.trunk, chunk.pages), *((b.start, b.count, b.pages) for b in chunk.branches)]
        assert all(0 <= page < PAGES for _, _, pages in lines for page in pages)
        assert all(start + count <= min(CONTEXT, 16 * len(pages)) for start, count, pages in lines)
    assert len(list(logit_rows(found))) <= sum(len(chunk.tokens) for chunk in found) <= ROWS


def test_frames_that_are_too_large_or_none_are_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(ours, FrameKind.ROWS, 5, {"seconds": 1.0}, rows=np.ones((2, 8), np.float32))
        frame = receive(theirs, 64)
        assert (frame.kind, frame.number, frame.plain()) == (FrameKind.ROWS, 5, {"seconds": 1.0})
        assert frame.states(8).tolist() == np.ones((2, 8)).tolist()
        with pytest.raises(EngineError, match="a row has"):
            frame.states(5)
        send(ours, FrameKind.ROWS, rows=np.ones((2, 8), np.float32))
        with pytest.raises(EngineError, match="more than any"):
            receive(theirs, 63)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        with pytest.raises(EngineError, match="another program"):
            receive(theirs, 64)
    with pytest.raises(OSError, match=r".*"):
        send(ours, FrameKind.HELLO, values={})


def test_a_proof_returned_to_its_sender_proves_nothing() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(5)
        ours.sendall(bytes(32))
        ours.sendall(bytes(32))
        assert not prove(theirs, b"a secret of some bytes", listens=True)


@pytest.mark.parametrize(
    ("outer", "layers", "stages", "expected"),
    [
        (0, [1] * 6, 2, [3, 3]),
        (4, [1] * 8, 2, [2, 6]),
        (100, [1] * 4, 2, [1, 3]),
        (0, [5, 1, 1, 1, 1, 1], 2, [1, 5]),
        (0, [1] * 3, 3, [1, 1, 1]),
        (7, [2], 1, [1]),
    ],
)
def test_layers_are_cut_by_bytes(outer: int, layers: list[int], stages: int, expected: list[int]) -> None:
    assert [len(part) for part in cut_layers(outer, layers, stages)] == expected


@given(st.integers(0, 50), st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 9))
def test_every_layer_has_one_stage(outer: int, layers: list[int], stages: int) -> None:
    if stages > len(layers):
        with pytest.raises(RequestError):
            cut_layers(outer, layers, stages)
        return
    found = cut_layers(outer, layers, stages)
    assert [layer for part in found for layer in part] == list(range(len(layers)))
    assert len(found) == stages
    assert all(found)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 90), st.integers(0, 1)), min_size=1, max_size=6))
def test_pieces_are_the_rows_of_the_step(parts: list[tuple[int, int, int]]) -> None:
    chunks = [line(start, count, wanted) for start, count, wanted in parts]
    found = pieces(chunks, 32)
    rows = [(chunk.start + at, token, chunk.pages) for chunk in chunks for at, token in enumerate(chunk.tokens)]
    cut = [chunk for piece in found for chunk in piece]
    assert [(c.start + at, token, c.pages) for c in cut for at, token in enumerate(c.tokens)] == rows
    assert list(logit_rows(cut)) == list(logit_rows(chunks))
    assert all(piece for piece in found)
