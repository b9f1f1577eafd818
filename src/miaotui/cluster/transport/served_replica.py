"""The seam between an engine in a replica and the connection that serves it.

Owns the protocol that replicas of decoders, encoders and speech models fulfil. Knows no engine and no network.
Invariant: an answer's pieces end with an end or an error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

from miaotui.cluster.messages import Message


class ServedReplica(Protocol):
    """One engine as a replica. Make and use it in one event loop."""

    @property
    def digest(self) -> str:
        """Return the digest of the model's files."""

    @property
    def healthy(self) -> bool:
        """Return whether its engine runs."""

    @property
    def in_flight(self) -> int:
        """Return the requests that have not ended."""

    def describe(self) -> Message:
        """Return what decides if it may join a pool, and its place."""

    def report(self) -> Message:
        """Return what it could promise now: its costs, and all its work."""

    async def adapt(self, message: Mapping[str, Any]) -> Message:
        """Load or unload an adapter; return what was loaded, or the error."""

    def answer(self, message: Mapping[str, Any]) -> AsyncGenerator[Message, None]:
        """Yield the pieces of one answer; the last one is its end or its error. Closing it early cancels."""

    def close(self) -> None:
        """Cancel everything and give the memory back."""
