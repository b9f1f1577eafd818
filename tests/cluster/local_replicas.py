"""Replicas of job models in this process, behind channels that can die, refuse and hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from miaotui.cluster.jobs.arrays import arrays_piece, read_arrays
from miaotui.cluster.messages import Message
from miaotui.cluster.transport.served_replica import ServedReplica
from miaotui.errors import ReplicaLostError


class LocalChannel:
    """A way to a replica in this process. ``pieces_left``: results until it dies under a job; None: it lives.

    ``doubles`` and ``drops`` name results, by their number, that come twice, once, or not at all.
    """

    def __init__(self, replica: ServedReplica) -> None:
        self._replica = replica
        self.pieces_left: int | None = None
        self.error: Message | None = None
        self.is_held = False  # its answers do not come
        self.doubles: set[int] = set()
        self.drops: set[int] = set()
        self.messages: list[Mapping[str, Any]] = []

    async def describe(self) -> Message:
        return self._replica.describe()

    async def report(self) -> Message:
        return self._replica.report()

    async def adapt(self, message: Message) -> Message:
        return await self._replica.adapt(message)

    def abandon(self) -> None:
        """Nothing waits here."""

    async def answer(self, message: Message) -> AsyncGenerator[Message, None]:
        """Yield results one by one, until it dies."""
        self.messages.append(message)
        if self.is_held:
            await asyncio.Event().wait()
        if self.error is not None:
            yield self.error
            return
        async with aclosing(self._replica.answer(message)) as pieces:
            async for piece in pieces:
                if "f32" not in piece:
                    yield piece
                    continue
                for at, each in enumerate(read_arrays(piece), piece["at"]):
                    if self.pieces_left == 0:
                        self.pieces_left = None  # it comes back under the same name
                        raise ReplicaLostError("it died")
                    if self.pieces_left is not None:
                        self.pieces_left -= 1
                    for _ in range(0 if at in self.drops else 2 if at in self.doubles else 1):
                        yield {**arrays_piece([each]), "at": at}
                    self.drops.discard(at)
                    self.doubles.discard(at)
                if "end" in piece or "error" in piece:
                    yield {name: value for name, value in piece.items() if name not in ("f32", "shapes", "at")}


class LocalMembers:
    """Channels by name (see `Members`)."""

    def __init__(self, channels: Mapping[str, LocalChannel]) -> None:
        self.channels = dict(channels)

    async def current(self) -> Mapping[str, LocalChannel]:
        await asyncio.sleep(0)
        return dict(self.channels)

    async def close(self) -> None:
        """Nothing is open."""
