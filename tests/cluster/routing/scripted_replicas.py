"""Replicas whose tokens follow from seed and position, and a network between them and a pool that loses lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from typing import Any

from miaotui.cluster.jobs.reports import description, report
from miaotui.cluster.messages import Message, RemoteRequest, end_piece, taken, tokens_piece
from miaotui.cluster.transport.calls import Calls
from miaotui.cluster.transport.direct import NONCE_BYTES, PROOF_BYTES, Place, ReplicaServer, connect
from miaotui.errors import ReplicaLostError

PIECE_TOKENS = 3
STOPS = {3: 13}  # seeds whose answers end by themselves, and after how many tokens
Fault = Callable[[bytes, bytes], list[bytes]]  # of a direction and a line: the lines that arrive


def token_at(seed: int, place: int) -> int:
    """The token that every replica computes there."""
    return (seed * 31 + place * place * 7) % 250


class ScriptedReplica:
    """A replica that computes `token_at` (see `ServedReplica`)."""

    healthy, in_flight = True, 0

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.asked: list[RemoteRequest] = []

    def describe(self) -> Message:
        return description(self.digest, ["scripted"], promises=True, context=256)

    def report(self) -> Message:
        return report(1e-4, 0, 0)

    async def adapt(self, message: Mapping[str, Any]) -> Message:
        raise NotImplementedError

    async def answer(self, message: Mapping[str, Any]) -> AsyncGenerator[Message, None]:
        asked = RemoteRequest.read(message)
        self.asked.append(asked)
        seed = asked.params.seed or 0
        most = STOPS.get(seed, asked.params.max_tokens or 1)
        ready = taken(1.0, None)
        for at in range(len(asked.begun), most, PIECE_TOKENS):
            ids = [token_at(seed, place) for place in range(at, min(at + PIECE_TOKENS, most))]
            yield ready | tokens_piece(ids, at, 0, ())
            ready = {}
            await asyncio.sleep(0)
        yield end_piece("stop" if seed in STOPS else "length", shortened=False)

    def close(self) -> None:
        """Nothing is open."""


class LossyNetwork:
    """Listens before one replica, and carries lines; ``fault`` says what arrives of each."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.fault: Fault = lambda _, line: [line]
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> Place:
        self._server = await asyncio.start_server(self._carry, self._place.host, 0, limit=1 << 20)
        return Place(self._place.host, self._server.sockets[0].getsockname()[1], self._place.secret)

    async def close(self) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        far, to_far = await asyncio.open_connection(self._place.host, self._place.port, limit=1 << 20)
        to_near.write(await far.readexactly(NONCE_BYTES))
        to_far.write(await near.readexactly(NONCE_BYTES + PROOF_BYTES))
        to_near.write(await far.readexactly(PROOF_BYTES))
        ways = ((b"out", near, to_far), (b"back", far, to_near))
        self._tasks |= {asyncio.ensure_future(self._one_way(*way)) for way in ways}

    async def _one_way(self, way: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            while line := await reader.readline():
                for each in self.fault(way, line):
                    writer.write(each)
                await writer.drain()
        writer.close()


class ScriptedMembers:
    """Two replicas behind networks (see `Members`); a connection that ended is made again under a new name."""

    def __init__(self, digest: str) -> None:
        self.replicas = [ScriptedReplica(digest) for _ in range(2)]
        self.networks: list[LossyNetwork] = []
        self._servers: list[ReplicaServer] = []
        self._places: list[Place] = []
        self._ways: dict[str, Calls] = {}
        self._made = 0

    async def current(self) -> dict[str, Calls]:
        if not self._places:
            for replica in self.replicas:
                self._servers.append(ReplicaServer(replica))
                self.networks.append(LossyNetwork(await self._servers[-1].start("127.0.0.1")))
                self._places.append(await self.networks[-1].start())
        for name in [name for name, way in self._ways.items() if way.is_lost]:
            await self._ways.pop(name).close()
        for number, place in enumerate(self._places):
            if not any(name.startswith(f"{number}#") for name in self._ways):
                self._made += 1
                with suppress(ReplicaLostError):
                    self._ways[f"{number}#{self._made}"] = await connect(place, str(number))
        return dict(self._ways)

    async def close(self) -> None:
        for way in self._ways.values():
            await way.close()
        for network in self.networks:
            await network.close()
        for server in self._servers:
            await server.close()


class OneFault:
    """Does ``change`` to the first line that ``matches``, whichever network carries it, and to no other."""

    def __init__(self, matches: Callable[[bytes, Message], bool], change: Callable[[bytes], list[bytes]]) -> None:
        self._matches, self._change = matches, change
        self.is_done = False

    def __call__(self, way: bytes, line: bytes) -> list[bytes]:
        if self.is_done or not self._matches(way, json.loads(line)):
            return [line]
        self.is_done = True
        return self._change(line)
