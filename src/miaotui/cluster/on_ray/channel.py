"""Ways to replicas that Ray Serve runs: Serve says where each one listens, and the calls go there directly.

Owns the question where, and the table of connections. Knows neither engines nor our own router's reasons. Invariants: a
question that reached another replica than the named one is refused there, and counts as lost; a connection whose
replica has left stays until its last call has ended.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from ray.serve.handle import DeploymentHandle

from miaotui.cluster.messages import Message
from miaotui.cluster.on_ray.known import NAMED, names_of
from miaotui.cluster.transport.calls import Calls
from miaotui.cluster.transport.direct import Place, connect, tls_of_ray
from miaotui.errors import ReplicaLostError

MISDIRECTED = {"misdirected": True}  # the reply of any other


class RayChannel:
    """A way to one replica of a deployment (see `Channel`)."""

    def __init__(self, handle: DeploymentHandle[Any], name: str) -> None:
        self._handle, self._name = handle, name
        self._calls: Calls | None = None

    @property
    def is_lost(self) -> bool:
        """Return whether its connection has ended."""
        return self._calls is not None and self._calls.is_lost

    @property
    def in_flight(self) -> int:
        """Calls that wait for the rest of their reply."""
        return 0 if self._calls is None else self._calls.in_flight

    async def describe(self) -> Message:
        """Return the replica's description; the first call connects."""
        if self._calls is None:
            place = Place.read(await self._ask_place())
            self._calls = await connect(place, self._name, tls_of_ray(listens=False))
        return await self._calls.describe()

    async def report(self) -> Message:
        """Return the replica's report."""
        return await self._connected().report()

    async def adapt(self, message: Message) -> Message:
        """Have the replica load or unload an adapter."""
        return await self._connected().adapt(message)

    async def answer(self, message: Message) -> AsyncGenerator[Message, None]:
        """Yield the pieces of one answer."""
        async with aclosing(self._connected().answer(message)) as pieces:
            async for piece in pieces:
                yield piece

    def abandon(self) -> None:
        """End the connection now."""
        if self._calls is not None:
            self._calls.abandon()

    async def close(self) -> None:
        """End the connection."""
        if self._calls is not None:
            await self._calls.close()

    def _connected(self) -> Calls:
        if self._calls is None:
            raise ReplicaLostError(f"the replica {self._name} was not asked where it listens")
        return self._calls

    async def _ask_place(self) -> Message:
        try:
            found: Message = await self._handle.options(method_name="place", stream=False).remote({NAMED: self._name})
        except Exception as error:
            first = (str(error).strip() or "no reason").splitlines()[0]
            raise ReplicaLostError(
                f"the replica {self._name} was lost: {type(error).__name__}: {first:.200}"
            ) from error
        if found == MISDIRECTED:
            raise ReplicaLostError(f"the replica {self._name} is not there any more")
        return found


class RayMembers:
    """The replicas of one deployment, as Serve runs them now (see `Members`)."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle.options(stream=False)  # with this, its router exists
        self._key = str(handle.deployment_id)
        self._ways: dict[str, RayChannel] = {}
        self._leaving: list[RayChannel] = []

    async def current(self) -> Mapping[str, RayChannel]:
        """Return the ways to all replicas that Serve knows."""
        names = names_of(self._key)
        for name, way in tuple(self._ways.items()):
            if name not in names or way.is_lost:
                self._leaving.append(self._ways.pop(name))
        for name in names:
            self._ways.setdefault(name, RayChannel(self._handle, name))
        for way in [way for way in self._leaving if not way.in_flight]:
            self._leaving.remove(way)
            await way.close()
        return dict(self._ways)

    async def close(self) -> None:
        """End all connections; Serve ends replicas."""
        for way in (*self._ways.values(), *self._leaving):
            await way.close()
