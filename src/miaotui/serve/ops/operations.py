"""Everything that runs beside the answers: requests in flight, metrics, health, audit log, logs, traces, draining.

Owns how these are put together for one server, the list of running requests with the accounts of their HTTP requests,
and the task that looks after all of it each second. Knows no route and no text. Invariants: none of them can delay an
answer by more than its own few microseconds, nor fail one; a request is in the list from its submission until it is
read no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from starlette.types import Scope

from miaotui.engine.request import Request
from miaotui.errors import RefusedError
from miaotui.serve import LOG
from miaotui.serve.encoders.registry import EncoderRegistry
from miaotui.serve.middleware.accounting import Account, AccountListener, current
from miaotui.serve.observed_model import Observers
from miaotui.serve.ops.audit import AuditLog
from miaotui.serve.ops.gauges import Gauges
from miaotui.serve.ops.health import Health
from miaotui.serve.ops.jobs import EncoderJobs
from miaotui.serve.ops.logs import log_request
from miaotui.serve.ops.machine import memory_limit_bytes, memory_warning, resident_bytes
from miaotui.serve.ops.metrics import Metrics
from miaotui.serve.ops.traces import Traces
from miaotui.serve.services import ServedModels
from miaotui.served_model import ServedModel

LOOK_AGAIN_S = 1.0


class Running:
    """An `Observer` that knows what runs; ``models`` may be filled later, while the server starts."""

    def __init__(self, hosts: Mapping[str, ServedModel]) -> None:
        self._hosts = hosts
        self._open: dict[tuple[str, int], tuple[Request, Account | None]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def submitted(self, model: str, request: Request) -> None:
        """Count its prompt from now on."""
        account = current()
        self._open[model, request.number] = request, account
        if account is not None:
            account.model = model
            account.use(prompt=request.prompt_tokens)

    def refused(self, model: str, error: RefusedError) -> None:
        """Note the model's name, for the log."""
        account = current()
        if account is not None:
            account.model = model

    def left(self, model: str, request: Request) -> None:
        """Count what it answered too."""
        _, account = self._open.pop((model, request.number), (request, None))
        if account is None:
            return
        account.use(answer=len(request.token_ids), cached=request.cached_tokens)
        if request.finish_reason in ("stop", "length"):
            ttft_s = request.completion().timing.ttft_s
            account.ttft_s = ttft_s if account.ttft_s is None else min(account.ttft_s, ttft_s)

    def cancel_all(self) -> int:
        """Cancel everything and return the count; readers get what there is of their answers."""
        for (model, _), (request, _account) in self._open.items():
            self._hosts[model].loop.cancel(request)
        return len(self._open)


class Operations:
    """The operations of one server; ``models`` may be filled later, while the server starts."""

    def __init__(
        self,
        models: ServedModels,
        *,
        encoders: EncoderRegistry | None = None,
        audit: AuditLog | None = None,
        traces: Traces | None = None,
    ) -> None:
        self.models, self.audit, self.traces = models, audit, traces
        self.metrics = Metrics()
        self.gauges = Gauges(lambda: list(models.values()), self.metrics.registry)
        self.health = Health(models, encoders or {})
        self.running = Running(models)
        self.jobs = EncoderJobs(self.metrics)
        self.watch = Observers((self.running, self.metrics))
        self.is_draining = False
        self._was_healthy: dict[str, bool] = {}
        self._has_warned = False

    @property
    def listeners(self) -> list[AccountListener]:
        """Listeners to each HTTP request that is over."""
        return [self._account_closed]

    async def look_after(self) -> None:
        """Count steps, warn of memory and note failed engines each second, until it is cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_AGAIN_S)

    def look(self) -> None:
        """Do once what `look_after` does each second."""
        for model in list(self.models.values()):
            self.gauges.steps.take(model)
            healthy, was = model.loop.healthy, self._was_healthy.get(model.name, True)
            if was and not healthy:
                LOG.error("the engine of %s failed and is starting anew", model.name)
            elif healthy and not was:
                LOG.warning("the engine of %s runs again", model.name)
            self._was_healthy[model.name] = healthy
        warning = memory_warning(resident_bytes(), memory_limit_bytes())
        if warning is not None and not self._has_warned:
            LOG.warning(warning)
        self._has_warned = warning is not None

    def close(self) -> None:
        """Write what has not been written yet."""
        if self.audit is not None:
            self.audit.close()
        if self.traces is not None:
            with suppress(Exception):  # a collector that is gone must not keep us from leaving
                self.traces.close()

    def _account_closed(self, account: Account, scope: Scope) -> None:
        self.metrics.responded(account)
        log_request(account)
        if self.audit is not None:
            self.audit.note(account)
        if self.traces is not None:
            self.traces.note(account, scope["headers"])
