"""Frames between the first process of a model and its stages, over one stream socket.

    head      4 bytes "MTS1", kind, number of the step, bytes of fields, bytes of rows
    fields    JSON, or int64 of a plan's chunks
    rows      float32 states, [rows, hidden]

Owns the form and its checks, and the proof that both ends of a TCP connection know one secret. Knows no model.
Invariants: no size is believed before it is compared with a bound; the secret itself never crosses.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import struct
from array import array
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import EngineError
from miaotui.schedule.plan import Branch, Chunk, RowKind, pages_for

PROTOCOL = 1
Floats = NDArray[np.float32]

_HEAD = struct.Struct("<4sIQIQ")
_MAGIC = b"MTS1"
_MOST_FIELDS = 1 << 28  # bytes
_PROOF_BYTES = 32
_KINDS = tuple(RowKind)


class FrameKind(IntEnum):
    """The meaning of a frame."""

    HELLO = 1  # a stage says what it is
    BEGIN = 2  # which layers it is to compute, and the sizes
    READY = 3  # it can
    RUN = 4  # chunks and the states of their rows
    ROWS = 5  # the states after the last of its layers
    FAULT = 6  # what went wrong


class Frame(NamedTuple):
    """One message; ``rows`` are the bytes of states."""

    kind: FrameKind
    number: int
    fields: bytes
    rows: bytearray

    def plain(self) -> dict[str, Any]:
        """Return the fields as JSON values. Raises `EngineError`."""
        try:
            found = json.loads(self.fields)
        except ValueError as error:
            raise EngineError(f"a stage sent a damaged message: {error}") from error
        if not isinstance(found, dict):
            raise EngineError("a stage sent a damaged message: expected names with values")
        return found

    def states(self, width: int) -> Floats:
        """Return the states, ``[rows, width]``. Raises `EngineError` for bytes that are no whole rows."""
        if len(self.rows) % (4 * width):
            raise EngineError(f"a stage sent {len(self.rows)} bytes of states, and a row has {4 * width}")
        return np.frombuffer(self.rows, np.float32).reshape(-1, width)


def send(
    connection: socket.socket,
    kind: FrameKind,
    number: int = 0,
    values: dict[str, Any] | None = None,
    *,
    fields: bytes = b"",
    rows: Floats | None = None,
) -> None:
    """Send one frame, with ``values`` as JSON or ``fields`` as they are. Raises `OSError`."""
    fields = fields if values is None else json.dumps(values).encode()
    size = 0 if rows is None else rows.nbytes
    connection.sendall(_HEAD.pack(_MAGIC, kind, number, len(fields), size) + fields)
    if rows is not None and size:
        connection.sendall(np.ascontiguousarray(rows).data.cast("B"))


def receive(connection: socket.socket, most_rows_bytes: int) -> Frame:
    """Wait for one frame. Raises `EOFError` at the end of the connection, `OSError`, and `EngineError` for bytes that
    are none, or more than ``most_rows_bytes`` of states.
    """
    magic, kind, number, fields, rows = _HEAD.unpack(_read(connection, _HEAD.size))
    if magic != _MAGIC or kind not in FrameKind.__members__.values():
        raise EngineError("a connection of stages brought bytes that are no message: another program listens there")
    if fields > _MOST_FIELDS or rows > most_rows_bytes:
        raise EngineError(f"a message between stages has {fields + rows:,} bytes, more than any can have here")
    return Frame(FrameKind(kind), number, bytes(_read(connection, fields)), _read(connection, rows))


def _read(connection: socket.socket, size: int) -> bytearray:
    found = bytearray(size)
    view = memoryview(found)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise EOFError("the connection has ended")
        view = view[count:]
    return found


# chunks ------------------------------------------------------------------------------------------------------------


def chunk_fields(chunks: Sequence[Chunk]) -> bytes:
    """Return chunks as int64, for `read_chunks`."""
    found = array("q", [len(chunks)])
    for chunk in chunks:
        sizes = len(chunk.tokens), len(chunk.pages), len(chunk.branches)
        kind = _KINDS.index(chunk.kind)
        numbers = chunk.sequence, chunk.start, chunk.n_logits, chunk.n_scored, kind, chunk.block, chunk.n_after
        found.extend((*sizes, *numbers))
        found.extend(chunk.tokens)
        found.extend(chunk.pages)
        for branch in chunk.branches:
            copied = -1 if branch.copied is None else branch.copied
            found.extend((len(branch.pages), len(branch.again), branch.row, branch.count, branch.parent, branch.start))
            found.append(copied)
            found.extend(branch.pages)
            found.extend(branch.again)
    return found.tobytes()


def read_chunks(fields: bytes, rows: int, pages: int, context: int) -> tuple[Chunk, ...]:
    """Return the chunks of a message, of at most ``rows`` rows over ``pages`` pages, below position ``context``.

    Raises `EngineError` for anything else: what is believed here becomes addresses.
    """
    if len(fields) % 8:
        raise _damaged()
    found = array("q")
    found.frombytes(fields)
    try:
        (count,) = found[:1]
        reading = _Reading(found)
        chunks = tuple(reading.chunk() for _ in range(count)) if 0 <= count <= rows else ()
    except (IndexError, ValueError) as error:
        raise _damaged() from error
    if not chunks or reading.at != len(found) or sum(len(chunk.tokens) for chunk in chunks) > rows:
        raise _damaged()
    for chunk in chunks:
        _check(chunk, pages, context)
    return chunks


class _Reading:
    """Chunks one after another, from ``at`` on."""

    def __init__(self, numbers: array[int]) -> None:
        self.at, self._numbers = 1, numbers

    def take(self, count: int) -> tuple[int, ...]:
        if count < 0 or self.at + count > len(self._numbers):
            raise IndexError(count)
        found = tuple(self._numbers[self.at : self.at + count])
        self.at += count
        return found

    def chunk(self) -> Chunk:
        n_tokens, n_pages, n_branches, sequence, start, n_logits, n_scored, kind, block, n_after = self.take(10)
        tokens, pages = self.take(n_tokens), self.take(n_pages)
        branches = tuple(self.branch() for _ in range(n_branches))
        named = _KINDS[kind] if 0 <= kind < len(_KINDS) else RowKind.DECODE
        return Chunk(sequence, start, tokens, pages, n_logits, branches, n_scored, named, block=block, n_after=n_after)

    def branch(self) -> Branch:
        n_pages, n_again, row, count, parent, start, copied = self.take(7)
        return Branch(row, count, parent, start, self.take(n_pages), self.take(n_again), None if copied < 0 else copied)


def _check(chunk: Chunk, pages: int, context: int) -> None:
    """Raise `EngineError` unless every page and every position of a chunk is there."""
    count, lines = len(chunk.tokens), [(chunk.start, chunk.trunk, chunk.pages)]
    lines += [(branch.start, branch.count, branch.pages) for branch in chunk.branches]
    is_whole = all(
        start >= 0 and many > 0 and start + many <= context and pages_for(start + many) <= len(own)
        for start, many, own in lines
    )
    named = [page for _, _, own in lines for page in own]
    named += [branch.copied for branch in chunk.branches if branch.copied is not None]
    wanted = chunk.n_logits + chunk.n_scored + chunk.n_after
    sizes = min(chunk.n_logits, chunk.n_scored, chunk.n_after, chunk.block)
    rows = [row for branch in chunk.branches for row in (branch.row, branch.parent, *branch.again)]
    ends = [branch.row + branch.count for branch in chunk.branches]
    if (
        not is_whole
        or sizes < 0
        or wanted > count
        or not all(0 <= page < pages for page in named)
        or not all(0 <= row < count for row in rows)
        or not all(end <= count for end in ends)
        or sum(many for _, many, _ in lines) != count
    ):
        raise _damaged()


def _damaged() -> EngineError:
    return EngineError("the message of a step is damaged, or of another version: run one version of miaotui everywhere")


def logit_rows(chunks: Sequence[Chunk]) -> Iterator[int]:
    """Yield the numbers of the rows, over all chunks, whose logits are wanted."""
    row = 0
    for chunk in chunks:
        row += len(chunk.tokens)
        end = row - chunk.n_after
        yield from range(end - chunk.n_logits - chunk.n_scored, end)


# proofs --------------------------------------------------------------------------------------------------------------


def prove(connection: socket.socket, secret: bytes, *, listens: bool) -> bool:
    """Return whether the other end knows ``secret`` too, after proving to it that this end does.

    Raises `OSError` and `EOFError`.
    """
    roles = (b"stage", b"first") if listens else (b"first", b"stage")
    mine = secrets.token_bytes(_PROOF_BYTES)
    connection.sendall(mine)
    theirs = bytes(_read(connection, _PROOF_BYTES))
    connection.sendall(hmac.digest(secret, roles[0] + theirs + mine, "sha256"))
    wanted = hmac.digest(secret, roles[1] + mine + theirs, "sha256")
    return hmac.compare_digest(bytes(_read(connection, _PROOF_BYTES)), wanted)
