"""The calling end of one connection to a replica: many calls at once, each with the pieces of its reply.

Owns the table of calls that wait; each line has the number of its call. Knows neither processes nor addresses.
Invariant: when the connection ends, or a line of it was lost, every call that waits raises `ReplicaLostError`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator

from miaotui.cluster.messages import Message
from miaotui.cluster.transport.lines import LineNumbers
from miaotui.errors import ReplicaLostError

LOG = logging.getLogger("miaotui.cluster")
_ENDS = ("end", "error")


class Calls:
    """A way to a replica over two streams of bytes (see `Channel`). Make and use it in one event loop.

    ``place`` names the replica in errors.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: str) -> None:
        self._writer, self._place = writer, place
        self._numbers, self._lines = itertools.count(), LineNumbers()
        self._waiting: dict[int, asyncio.Queue[Message | None]] = {}
        self._is_lost = False
        self._reading = asyncio.create_task(self._read(reader))

    @property
    def is_lost(self) -> bool:
        """Return whether the connection has ended."""
        return self._is_lost

    @property
    def in_flight(self) -> int:
        """Calls that wait for the rest of their reply."""
        return len(self._waiting)

    async def describe(self) -> Message:
        """Return the replica's description."""
        return await self._ask("describe")

    async def report(self) -> Message:
        """Return the replica's report."""
        return await self._ask("report")

    async def adapt(self, message: Message) -> Message:
        """Have the replica load or unload an adapter."""
        return await self._ask("adapt", message)

    async def answer(self, message: Message) -> AsyncGenerator[Message, None]:
        """Yield the pieces of one answer."""
        number, pieces = self._begin()
        is_over = False
        try:
            await self._send({"number": number, "call": "answer", "message": message})
            while not is_over:
                piece = await self._next(pieces)
                is_over = any(name in piece for name in _ENDS)
                yield piece
        finally:
            del self._waiting[number]
            if not is_over and not self._is_lost:
                self._writer.write(self._lines.written({"number": number, "call": "leave"}))

    def abandon(self) -> None:
        """End the connection now: calls that wait raise `ReplicaLostError`."""
        self._lose()
        self._writer.close()

    async def close(self) -> None:
        """End the connection, and wait until nothing is read from it any more."""
        self._writer.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _ask(self, call: str, message: Message | None = None) -> Message:
        number, pieces = self._begin()
        try:
            await self._send({"number": number, "call": call, "message": message})
            return await self._next(pieces)
        finally:
            del self._waiting[number]

    def _begin(self) -> tuple[int, asyncio.Queue[Message | None]]:
        number, pieces = next(self._numbers), asyncio.Queue[Message | None]()
        self._waiting[number] = pieces
        return number, pieces

    async def _send(self, call: Message) -> None:
        if self._is_lost:
            raise self._error()
        try:
            self._writer.write(self._lines.written(call))
            await self._writer.drain()
        except (OSError, RuntimeError) as error:
            raise self._error() from error

    async def _next(self, pieces: asyncio.Queue[Message | None]) -> Message:
        piece = await pieces.get()
        if piece is None:
            raise self._error()
        return piece

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Hand pieces to the calls that wait, until the connection ends."""
        try:
            while line := await reader.readline():
                if not line.endswith(b"\n"):  # it ended in the middle of it
                    break
                reply = self._lines.read(line)
                pieces = None if reply is None else self._waiting.get(reply["number"])
                if reply is not None and pieces is not None:
                    pieces.put_nowait(reply["piece"])
        except (OSError, ValueError, KeyError, TypeError) as error:  # reset, gone, lines lost, or no replica's lines
            LOG.warning("%s: %s: %s", self._place, type(error).__name__, error)
        finally:
            self._lose()
            self._writer.close()

    def _lose(self) -> None:
        self._is_lost = True
        for pieces in self._waiting.values():
            pieces.put_nowait(None)

    def _error(self) -> ReplicaLostError:
        return ReplicaLostError(f"{self._place} has ended, or can no longer be reached")
