"""The seam between a pool and the processes that compute: a way to one replica, and the set of those there are.

Owns the two protocols. Invariant: an answer's pieces end with an end or an error, or `ReplicaLostError` is raised; a
channel that has raised it is of no more use.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from miaotui.cluster.messages import Message


class Channel(Protocol):
    """A way to one replica, for tasks of one event loop."""

    async def describe(self) -> Message:
        """Return `Replica.describe`. Raises `ReplicaLostError`."""

    async def report(self) -> Message:
        """Return `Replica.report`. Raises `ReplicaLostError`."""

    async def adapt(self, message: Message) -> Message:
        """Return the reply of `Replica.adapt`. Raises `ReplicaLostError`."""

    def abandon(self) -> None:
        """Give the replica up, which does not answer: calls that wait raise `ReplicaLostError`."""

    def answer(self, message: Message) -> AsyncGenerator[Message, None]:
        """Yield the pieces of `Replica.answer`; closing it early cancels. Raises `ReplicaLostError`."""


class Members(Protocol):
    """The replicas of one model, as they come and go."""

    async def current(self) -> Mapping[str, Channel]:
        """Return the ways to all replicas that are there now, by name; a replica that came back has a new name."""

    async def close(self) -> None:
        """Give up all ways."""
