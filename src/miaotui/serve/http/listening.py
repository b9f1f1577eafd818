"""From an application to a server on a socket.

Owns the choice and the settings of the HTTP server. Knows no route. Invariant: a server started here
says nothing of itself in its headers and leaves signals to whoever started it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from miaotui.serve.http.connection import ClientConnection

KEEP_ALIVE_S = 30
BACKLOG = 1024


def config_for(app: ASGIApp, **options: Any) -> uvicorn.Config:
    """How ``app`` is served; ``options`` are uvicorn's, such as ``host`` and ``port``."""
    chosen: dict[str, Any] = {
        "http": ClientConnection,
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "backlog": BACKLOG,
    }
    return uvicorn.Config(app, **(chosen | options))


def server_for(app: ASGIApp, **options: Any) -> SocketServer:
    """A server for ``app``, configured like `config_for`."""
    return SocketServer(config_for(app, **options))


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` in an event loop of its own: uvloop's where it exists.

    It takes two thirds of the processor time of asyncio's for each piece of a stream
    (`benchmarks/http_bench.py`), and the kernels want all of it.
    """
    try:
        import uvloop  # noqa: PLC0415 - not on Windows
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


class SocketServer(uvicorn.Server):
    """A server that is told when to stop (``should_exit``, ``force_exit``) instead of by signals."""

    def capture_signals(self) -> Any:
        """No handlers are installed."""
        from contextlib import nullcontext  # noqa: PLC0415 - one name, once per process

        return nullcontext()
