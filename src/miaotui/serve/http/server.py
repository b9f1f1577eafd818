"""The HTTP server's process: uvicorn, configured, started, drained on a signal, ended.

Owns the choice and the settings of uvicorn, the process's signals (SIGHUP reads keys again), and the order in which
things open and close. Knows no route. Invariant: after the first signal no request is taken on, and what runs may
finish within ``drain_timeout_s``, then it is cancelled; a second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import nullcontext, suppress
from types import FrameType
from typing import Any

import uvicorn
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp

from miaotui.serve import LOG
from miaotui.serve.http.connection import ClientConnection
from miaotui.serve.http.listener import Tls
from miaotui.serve.ops.operations import Operations

KEEP_ALIVE_S = 30
BACKLOG = 1024  # connections that the system holds until they are accepted
MOST_CONNECTIONS = 4096
MAX_WEBSOCKET_BYTES = 1 << 20  # of one message; 32 s of sound at 16 kHz
OTHER_FILES = 64  # open files that are no connections
LAST_WORDS_S = 2.0  # for cancelled answers to say that they were cancelled


def config_for(app: ASGIApp, **options: Any) -> uvicorn.Config:
    """Return uvicorn's configuration for ``app``; ``options`` are uvicorn's, such as ``host`` and ``port``."""
    chosen: dict[str, Any] = {
        "http": ClientConnection,
        "ws": "websockets-sansio" if _speaks_websocket(app) else "none",
        "ws_max_size": MAX_WEBSOCKET_BYTES,
        "ws_ping_timeout": None,  # a client that is read slower has its pongs read late; silent ones end otherwise
        "ws_per_message_deflate": False,  # sound hardly shrinks, and a small message could become a large one
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "backlog": BACKLOG,
    }
    return uvicorn.Config(app, **(chosen | options))


def _speaks_websocket(app: ASGIApp) -> bool:
    return any(isinstance(route, WebSocketRoute) for route in getattr(app, "routes", ()))


def server_for(app: ASGIApp, **options: Any) -> EmbeddedServer:
    """Return a server for ``app``, configured like `config_for`."""
    return EmbeddedServer(config_for(app, **options))


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` in an event loop of its own: uvloop's where it exists.

    It takes two thirds of the processor time of asyncio's for each piece of a stream
    (`benchmarks/serving/http_cost.py`), and the kernels want all of it.
    """
    try:
        import uvloop  # noqa: PLC0415 - not on Windows
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


class EmbeddedServer(uvicorn.Server):
    """A server inside another program: it stops by ``should_exit`` and ``force_exit``, never by signals."""

    def capture_signals(self) -> Any:
        """Install no handlers."""
        return nullcontext()


class DrainingServer(uvicorn.Server):
    """A server that drains on the first signal and ends at once on the second."""

    def __init__(self, app: ASGIApp, operations: Operations, *, drain_timeout_s: float, tls: Tls | None = None) -> None:
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
        """Drain on the first signal; end the process on the second."""
        if self.should_exit:
            os._exit(128 + sig)  # whatever is half written is rebuilt by the next start
        self._operations.is_draining = True
        self.should_exit = True  # logged in `shutdown`: a signal must not interrupt a log's writer

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let what runs finish, and cancel it when its time is over."""
        self._operations.is_draining = True
        LOG.warning("leaving: what runs has %g s to finish; a second signal ends at once", self._drain_timeout_s)
        cancelling = asyncio.create_task(self._cancel_late())
        try:
            await super().shutdown(sockets)
        finally:
            cancelling.cancel()

    async def _cancel_late(self) -> None:
        await asyncio.sleep(self._drain_timeout_s)
        count = self._operations.running.cancel_all() + self._operations.jobs.cancel_all()
        if count:
            LOG.warning("%d requests did not finish in time and were cancelled", count)


async def run_server(
    app: ASGIApp,
    operations: Operations,
    listening: socket.socket,
    *,
    drain_timeout_s: float,
    tls: Tls | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal, then let what runs finish."""
    server = DrainingServer(app, operations, drain_timeout_s=drain_timeout_s, tls=tls)
    reload_signal = getattr(signal, "SIGHUP", None)  # not on Windows
    if reload_signal is not None:
        with suppress(RuntimeError, ValueError, NotImplementedError):  # not in the main thread
            asyncio.get_running_loop().add_signal_handler(reload_signal, operations.reload)
    watching = [asyncio.create_task(operations.look_after()), asyncio.create_task(_call_when_started(server, on_ready))]
    try:
        await server.serve([listening])
    finally:
        for task in watching:
            task.cancel()
        await _log_failures(watching)


def connection_limit() -> int:
    """Return how many clients may be connected, after raising this process's limit of open files.

    A client beyond it gets a 503 instead of a place in the system's full queue.
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


async def _call_when_started(server: DrainingServer, on_ready: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.005)
    on_ready()


async def _log_failures(tasks: Sequence[asyncio.Task[None]]) -> None:
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, asyncio.CancelledError):
            LOG.error("a task beside the answers failed", exc_info=result)
