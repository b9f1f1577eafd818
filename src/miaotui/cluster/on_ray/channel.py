"""Ways to replicas that Ray Serve runs: each call goes to the replica that the pool has chosen.

Owns the calls by Serve's handles, and their errors. Knows neither engines nor our own router's reasons. Invariants: a
call that reached another replica than the named one is refused there, and counts as lost; nothing but JSON values
crosses.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from ray.serve.handle import DeploymentHandle

from miaotui.cluster.messages import Message
from miaotui.cluster.on_ray.known import NAMED, names_of
from miaotui.errors import ReplicaLostError

MISDIRECTED = {"misdirected": True}  # the reply of any other


class RayChannel:
    """A way to one replica of a deployment (see `Channel`)."""

    def __init__(self, handle: DeploymentHandle[Any], name: str) -> None:
        self._handle, self._name = handle, name

    async def describe(self) -> Message:
        """Return the replica's description."""
        return await self._ask("describe")

    async def report(self) -> Message:
        """Return the replica's report."""
        return await self._ask("report")

    async def answer(self, message: Message) -> AsyncGenerator[Message, None]:
        """Yield the pieces of one answer."""
        handle = self._handle.options(method_name="answer", stream=True)
        pieces = handle.remote({**message, NAMED: self._name})
        is_over = False
        try:
            async for piece in pieces:
                yield self._mine(piece)
            is_over = True
        except (GeneratorExit, ReplicaLostError):
            raise
        except Exception as error:
            is_over = True
            raise self._lost(error) from error
        finally:
            if not is_over:
                pieces.cancel()

    async def _ask(self, call: str) -> Message:
        try:
            reply = await self._handle.options(method_name=call, stream=False).remote({NAMED: self._name})
        except Exception as error:
            raise self._lost(error) from error
        return self._mine(reply)

    def _mine(self, reply: Message) -> Message:
        if reply == MISDIRECTED:
            raise ReplicaLostError(f"the replica {self._name} is not there any more")
        return reply

    def _lost(self, error: Exception) -> ReplicaLostError:
        first = (str(error).strip() or "no reason").splitlines()[0]
        return ReplicaLostError(f"the replica {self._name} was lost: {type(error).__name__}: {first:.200}")


class RayMembers:
    """The replicas of one deployment, as Serve runs them now (see `Members`)."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle.options(stream=False)  # with this, its router exists
        self._key = str(handle.deployment_id)
        self._ways: dict[str, RayChannel] = {}

    async def current(self) -> Mapping[str, RayChannel]:
        """Return the ways to all replicas that Serve knows."""
        names = names_of(self._key)
        self._ways = {name: self._ways.get(name) or RayChannel(self._handle, name) for name in names}
        return dict(self._ways)

    async def close(self) -> None:
        """Do nothing: Serve ends replicas."""
