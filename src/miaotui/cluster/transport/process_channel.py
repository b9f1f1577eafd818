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
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from miaotui.cluster.transport.calls import Calls
from miaotui.cluster.transport.lines import LINE_BYTES

STOP_S = 10.0  # that a child gets to end by itself
PAUSES_S = (0.0, 0.2, 1.0, 5.0)  # before a child that died is started again


class ProcessChannel(Calls):
    """A way to a replica in a child process (see `Channel`)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None, "it was started with pipes"
        assert process.stdin is not None, "it was started with pipes"
        super().__init__(process.stdout, process.stdin, f"the replica in process {process.pid}")
        self.process = process

    @staticmethod
    async def start(name: str, model: str, options: Mapping[str, Any] | None = None) -> ProcessChannel:
        """Start a child; calls wait until its model is open."""
        specification = json.dumps({"name": name, "model": model, "options": dict(options or {})})
        command = (sys.executable, "-m", "miaotui.cluster.transport.replica_process", specification)
        pipe = asyncio.subprocess.PIPE
        return ProcessChannel(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=LINE_BYTES))

    def abandon(self) -> None:
        """Kill the child: it answers no more."""
        super().abandon()
        with suppress(ProcessLookupError):
            self.process.kill()

    async def close(self) -> None:
        """End the child, and wait for it."""
        self._writer.close()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_S)
        except asyncio.TimeoutError:
            self.process.kill()
            await self.process.wait()
        await super().close()


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
