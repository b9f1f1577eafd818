"""A whole server from its options: keys, guard, models, operations, application.

Owns the order in which a server is put together. Knows neither the command line nor any route.
Invariant: layers go around everything from outside in: account, guard, body, route.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.middleware import Middleware

from miaotui.engine.loaded import Loaded
from miaotui.schedule.promises.admission import AdmissionLimits
from miaotui.serve.app import create_app
from miaotui.serve.documents.applications import applications
from miaotui.serve.documents.index_registry import KEY as INDEXES
from miaotui.serve.documents.index_registry import IndexRegistry
from miaotui.serve.http.lifecycle import run_server
from miaotui.serve.middleware.accounting import Accounting
from miaotui.serve.middleware.auth import AccessPolicy, App, Auth
from miaotui.serve.middleware.keys import Keyring
from miaotui.serve.ops.audit import AuditLog
from miaotui.serve.ops.operations import KEY, Operations
from miaotui.serve.ops.traces import open_traces
from miaotui.serve.options import ServeOptions
from miaotui.serve.response_cache import KEY as ANSWERS
from miaotui.serve.served_model import ServedModel
from miaotui.serve.settings import ServeSettings

_LOG = logging.getLogger("miaotui.serve")


async def serve(
    loaded: Mapping[str, Loaded],
    options: ServeOptions,
    listening: socket.socket,
    on_ready: Callable[[Mapping[str, ServedModel]], None] = lambda hosts: None,
) -> None:
    """Serve these models until a signal, then leave in good order. Raises a `MiaotuiError`."""
    hosts: dict[str, ServedModel] = {}
    audit = None if options.audit_log is None else AuditLog(Path(options.audit_log))
    operations = Operations(hosts, audit=audit, traces=open_traces())
    layers = layers_for(options, operations)
    for name, model in loaded.items():
        hosted = ServedModel(name, model, operations.watch, not options.no_speculate)
        hosted.loop.admission.limits = AdmissionLimits(options.max_requests, options.max_tokens)
        hosts[name] = hosted

    shelf = IndexRegistry()
    extras = {KEY: operations, INDEXES: shelf, **applications(options, hosts)}
    operations.gauges.answers = extras.get(ANSWERS)

    def make_app() -> App:
        settings = ServeSettings(deadline_ms=_milliseconds(options.deadline))
        return create_app(hosts, settings, layers=layers, extras=extras)

    try:
        await run_server(
            make_app,
            operations,
            listening,
            drain_timeout_s=options.drain_timeout,
            tls=options.tls,
            on_ready=lambda: on_ready(hosts),
        )
    finally:
        shelf.close()


def layers_for(options: ServeOptions, operations: Operations) -> list[Middleware]:
    """The layers around the routes, outermost first."""
    keyring = None
    if options.api_key_file is not None:
        keyring = Keyring(Path(options.api_key_file), share_prefix=options.share_prefix, on_error=_LOG.error)
    hosts = {host.lower().rstrip(".") for host in (options.host, *options.allowed_host)}
    policy = AccessPolicy(frozenset(hosts), frozenset(origin.lower() for origin in options.cors_origin))
    return [
        Middleware(Accounting, listeners=operations.listeners),
        Middleware(Auth, policy=policy, keyring=keyring, is_draining=lambda: operations.is_draining),
    ]


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
