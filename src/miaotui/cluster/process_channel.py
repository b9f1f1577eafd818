"""Replicas as child processes of this one, without Ray: for one machine, and for tests that kill them.

Owns the processes and their pipes. Knows no router. Invariants: a child never outlives its parent, because its input
ends with it; a child that died is replaced under a new name, after a pause that grows while they keep dying.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from miaotui.cluster.messages import Message
from miaotui.cluster.replica_process import LINE_BYTES
from miaotui.errors import ReplicaLostError

STOP_S = 10.0  # that a child gets to end by itself
PAUSES_S = (0.0, 0.2, 1.0, 5.0)  # before a child that died is started again
_ENDS = ("end", "error")


class ProcessChannel:
    """A way to a replica in a child process (see `Channel`)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Queue[Message | None]] = {}
        self._is_lost = False
        self._reader = asyncio.create_task(self._read())

    @staticmethod
    async def start(name: str, model: str, options: Mapping[str, Any] | None = None) -> ProcessChannel:
        """Start a child; calls wait until its model is open."""
        specification = json.dumps({"name": name, "model": model, "options": dict(options or {})})
        command = (sys.executable, "-m", "miaotui.cluster.replica_process", specification)
        pipe = asyncio.subprocess.PIPE
        return ProcessChannel(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=LINE_BYTES))

    @property
    def is_lost(self) -> bool:
        """Return whether the child has ended."""
        return self._is_lost

    async def describe(self) -> Message:
        """Return the replica's description."""
        return await self._ask("describe")

    async def report(self) -> Message:
        """Return the replica's report."""
        return await self._ask("report")

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
            if not is_over and not self._is_lost and self.process.stdin is not None:
                self.process.stdin.write(_line({"number": number, "call": "leave"}))

    async def close(self) -> None:
        """End the child, and wait for it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_S)
        except asyncio.TimeoutError:
            self.process.kill()
            await self.process.wait()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _ask(self, call: str) -> Message:
        number, pieces = self._begin()
        try:
            await self._send({"number": number, "call": call})
            return await self._next(pieces)
        finally:
            del self._waiting[number]

    def _begin(self) -> tuple[int, asyncio.Queue[Message | None]]:
        number, pieces = next(self._numbers), asyncio.Queue[Message | None]()
        self._waiting[number] = pieces
        return number, pieces

    async def _send(self, call: Message) -> None:
        if self._is_lost or self.process.stdin is None:
            raise self._lost()
        try:
            self.process.stdin.write(_line(call))
            await self.process.stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            raise self._lost() from error

    async def _next(self, pieces: asyncio.Queue[Message | None]) -> Message:
        piece = await pieces.get()
        if piece is None:
            raise self._lost()
        return piece

    async def _read(self) -> None:
        """Hand pieces to those who wait, until the child's output ends."""
        assert self.process.stdout is not None, "it was started with a pipe"
        try:
            while line := await self.process.stdout.readline():
                if not line.endswith(b"\n"):  # the child died in the middle of it
                    break
                reply = json.loads(line)
                pieces = self._waiting.get(reply["number"])
                if pieces is not None:
                    pieces.put_nowait(reply["piece"])
        finally:
            self._is_lost = True
            for pieces in self._waiting.values():
                pieces.put_nowait(None)

    def _lost(self) -> ReplicaLostError:
        return ReplicaLostError(
            f"the replica in process {self.process.pid} has ended (status {self.process.returncode})"
        )


class ProcessMembers:
    """So many replicas of one model in child processes (see `Members`)."""

    def __init__(self, name: str, model: str, count: int, options: Mapping[str, Any] | None = None) -> None:
        self._name, self._model, self._options = name, model, options
        self.count = count
        self.channels: dict[str, ProcessChannel] = {}
        self._numbers = itertools.count()
        self._deaths: list[float] = []

    async def current(self) -> Mapping[str, ProcessChannel]:
        """Return the ways to the children, after replacing those that died."""
        for name, channel in tuple(self.channels.items()):
            if channel.is_lost:
                del self.channels[name]
                self._deaths.append(time.monotonic())
        recent = [at for at in self._deaths if time.monotonic() - at < 60.0]
        self._deaths = recent
        pause_s = PAUSES_S[min(len(recent) // max(self.count, 1), len(PAUSES_S) - 1)]
        if len(self.channels) < self.count and (not recent or time.monotonic() - recent[-1] >= pause_s):
            name = f"{self._name}#{next(self._numbers)}"
            self.channels[name] = await ProcessChannel.start(self._name, self._model, self._options)
        while len(self.channels) > self.count:
            await self.channels.pop(next(reversed(self.channels))).close()
        return dict(self.channels)

    async def close(self) -> None:
        """End all children."""
        await asyncio.gather(*(channel.close() for channel in self.channels.values()))
        self.channels.clear()


def _line(call: Message) -> bytes:
    return json.dumps(call).encode() + b"\n"
