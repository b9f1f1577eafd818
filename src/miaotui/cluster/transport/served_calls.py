"""The answering end of one connection: calls come in as lines, the pieces of their replies go out as lines.

Owns the calls under way. Knows neither processes nor addresses; `calls` is the other end. Invariant: when the
connection ends, or a line of it was lost, every call of it is cancelled.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from miaotui.cluster.messages import Message
from miaotui.cluster.transport.lines import LineNumbers
from miaotui.cluster.transport.served_replica import ServedReplica


class ServedCalls:
    """The calls of one connection. Make and use it in the event loop of its replica."""

    def __init__(self, replica: ServedReplica, writer: asyncio.StreamWriter) -> None:
        self._replica, self._writer = replica, writer
        self._lines = LineNumbers()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Serve calls until no more come. Raises `ValueError` for a line that is none or too long, or after a gap."""
        try:
            while (line := await reader.readline()).endswith(b"\n"):
                call = self._lines.read(line)
                if call is None:
                    continue  # it came twice
                number = int(call["number"])
                if call["call"] == "leave":
                    if number in self._tasks:
                        self._tasks[number].cancel()
                    continue
                task = asyncio.create_task(self._serve(number, call))
                self._tasks[number] = task
                task.add_done_callback(lambda _, number=number: self._tasks.pop(number, None))  # type: ignore[misc]
        finally:
            tasks = tuple(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, number: int, call: Message) -> None:
        kind = call["call"]
        if kind == "answer":
            async with aclosing(self._replica.answer(call["message"])) as pieces:
                async for piece in pieces:
                    await self._write(number, piece)
        elif kind == "adapt":
            await self._write(number, await self._replica.adapt(call["message"]))
        else:
            await self._write(number, self._replica.describe() if kind == "describe" else self._replica.report())

    async def _write(self, number: int, piece: Message) -> None:
        self._writer.write(self._lines.written({"number": number, "piece": piece}))
        await self._writer.drain()
