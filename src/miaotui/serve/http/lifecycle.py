"""From the first socket to the last answer: starting, draining on a signal, ending.

Owns the server's process: its signals and the order in which things open and close. Knows
no route. Invariant: after the first signal nothing new is taken on and what runs may finish within
``drain_timeout_s``, then it is cancelled; a second signal ends the process at once. The server
itself is uvicorn.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType

import uvicorn

from miaotui.serve.http.listening import config_for
from miaotui.serve.http.sockets import Tls
from miaotui.serve.middleware.auth import App
from miaotui.serve.ops.operations import Operations

_LOG = logging.getLogger("miaotui.serve")
MOST_CONNECTIONS = 4096
OTHER_FILES = 64  # that are no connections
LAST_WORDS_S = 2.0  # for answers that were cancelled to say so


def connection_limit() -> int:
    """How many clients may be connected, after this process's limit of open files was raised.

    Beyond it a client is told 503 instead of waiting in a full queue of the system's.
    """
    try:
        import resource  # noqa: PLC0415  (not on Windows)
    except ImportError:
        return MOST_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
        return max(soft - OTHER_FILES, OTHER_FILES)
    return MOST_CONNECTIONS


class DrainingServer(uvicorn.Server):
    """uvicorn, leaving as we promise to leave."""

    def __init__(self, app: App, operations: Operations, *, drain_timeout_s: float, tls: Tls | None = None) -> None:
        self._operations, self._drain_timeout_s = operations, drain_timeout_s
        config = config_for(
            app,
            lifespan="off",
            proxy_headers=False,
            limit_concurrency=connection_limit(),
            timeout_graceful_shutdown=int(drain_timeout_s + LAST_WORDS_S) + 1,
            ssl_certfile=None if tls is None else tls.certificate,
            ssl_keyfile=None if tls is None else tls.key,
        )
        super().__init__(config)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal: finish what runs. The second: end now."""
        if self.should_exit:
            os._exit(128 + sig)  # whatever is half written is rebuilt by the next start
        self._operations.is_draining = True
        self.should_exit = True  # told of in `shutdown`: a signal must not interrupt a log's writer

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let what runs finish, cancel it when its time is over, and leave."""
        self._operations.is_draining = True
        _LOG.warning("leaving: what runs has %g s to finish; a second signal ends at once", self._drain_timeout_s)
        cancelling = asyncio.create_task(self._cancel_late())
        try:
            await super().shutdown(sockets)
        finally:
            cancelling.cancel()

    async def _cancel_late(self) -> None:
        await asyncio.sleep(self._drain_timeout_s)
        count = self._operations.running.cancel_all()
        if count:
            _LOG.warning("%d requests did not finish in time and were cancelled", count)


async def run_server(
    app: App,
    operations: Operations,
    listening: socket.socket,
    *,
    drain_timeout_s: float,
    tls: Tls | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal, then let what runs finish."""
    server = DrainingServer(app, operations, drain_timeout_s=drain_timeout_s, tls=tls)
    watching = [asyncio.create_task(operations.look_after()), asyncio.create_task(_call_when_started(server, on_ready))]
    try:
        await server.serve([listening])
    finally:
        for task in watching:
            task.cancel()
        await _ended(watching)


async def _call_when_started(server: DrainingServer, on_ready: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.005)
    on_ready()


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, asyncio.CancelledError):
            _LOG.error("a task beside the answers failed", exc_info=result)
