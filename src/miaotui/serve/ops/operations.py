"""Everything that runs beside the answers: requests in flight, metrics, health, audit log, logs, traces, draining.

Owns how these are put together for one server, and the task that looks after all of it each second. Knows no route and
no text. Invariant: none of them can delay an answer by more than its own few microseconds, nor fail one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from miaotui.engine.jobs.loop import JobLoop
from miaotui.serve import LOG
from miaotui.serve.encoders.registry import EncoderEntry, EncoderRegistry
from miaotui.serve.middleware.access import Account, AccountListener, log_request
from miaotui.serve.middleware.keys import Caller, Keyring
from miaotui.serve.models import Running, ServedModels
from miaotui.serve.ops.audit import AuditLog
from miaotui.serve.ops.gauges import Gauges
from miaotui.serve.ops.health import Health
from miaotui.serve.ops.jobs import EncoderJobs
from miaotui.serve.ops.machine import memory_limit_bytes, memory_warning, resident_bytes
from miaotui.serve.ops.metrics import Metrics
from miaotui.serve.ops.traces import Traces
from miaotui.serve.seq2seq.models import Seq2SeqModels, ServedSeq2Seq
from miaotui.serve.speech.models import ServedSpeech, SpeechModels

LOOK_AGAIN_S = 1.0
COUNT_LOOKS = 10  # requests that are over are counted so often, and before each scrape


class Operations:
    """The operations of one server; ``models`` may be filled later, while the server starts."""

    def __init__(
        self,
        models: ServedModels,
        *,
        encoders: EncoderRegistry | None = None,
        seq2seq: Seq2SeqModels | None = None,
        speech: SpeechModels | None = None,
        audit: AuditLog | None = None,
        traces: Traces | None = None,
    ) -> None:
        self.models, self.audit, self.traces = models, audit, traces
        self.metrics = Metrics()
        self.gauges = Gauges(
            lambda: list(models.values()),
            self.metrics.registry,
            lambda: job_loops(encoders or {}, seq2seq or {}, speech or {}),
        )
        self.health = Health(models, encoders or {}, seq2seq or {})
        self.running = Running(models)
        self.jobs = EncoderJobs(self.metrics)
        self.closed: list[Account] = []  # of HTTP requests that are over and not counted yet
        self.is_draining = False
        self.keyring: Keyring | None = None
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self.gone_listeners: list[Callable[[Caller], None]] = []  # to each caller that has no key any more
        self._was_healthy: dict[str, bool] = {}
        self._has_warned = False
        self._looks = 0

    @property
    def listeners(self) -> list[AccountListener]:
        """Listeners to each HTTP request that is over."""
        notes: list[AccountListener] = [log_request]
        return notes + [part.note for part in (self.audit, self.traces) if part is not None]

    async def look_after(self) -> None:
        """Count steps, warn of memory and note failed engines each second, until it is cancelled."""
        self._event_loop = asyncio.get_running_loop()
        while True:
            if self.keyring is not None:
                await asyncio.to_thread(self.keyring.refresh)  # a long file takes time to read
            self.look()
            await asyncio.sleep(LOOK_AGAIN_S)

    def look(self) -> None:
        """Do once what `look_after` does each second."""
        self._looks += 1
        if self._looks % COUNT_LOOKS == 0:
            self.count()
        self.gauges.take_steps()
        for model in list(self.models.values()):
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

    def reload(self) -> None:
        """Read the keys, or the tenants, again."""
        if self.keyring is not None:
            self.keyring.refresh(always=True)
            LOG.warning("the file of keys was read again")

    def caller_gone(self, caller: Caller) -> None:
        """Note that a caller has no key any more. May be called in any thread."""
        if self._event_loop is None:
            self._forget(caller)
        else:
            with suppress(RuntimeError):  # the event loop has ended
                self._event_loop.call_soon_threadsafe(self._forget, caller)

    def _forget(self, caller: Caller) -> None:
        LOG.warning("%s has no key any more", caller.name)
        self.metrics.forget(caller.name)
        for listener in self.gone_listeners:
            listener(caller)

    def count(self) -> None:
        """Bring the metrics up to date with what is over. Call it in the event loop."""
        closed = self.closed.copy()
        self.closed.clear()
        self.metrics.count(self.running.take_ended(), closed)

    def close(self) -> None:
        """Write what has not been written yet."""
        if self.audit is not None:
            self.audit.close()
        if self.traces is not None:
            with suppress(Exception):  # a collector that is gone must not keep the server from stopping
                self.traces.close()


def job_loops(
    encoders: Mapping[str, EncoderEntry], seq2seq: Mapping[str, ServedSeq2Seq], speech: Mapping[str, ServedSpeech]
) -> dict[str, JobLoop[Any]]:
    """Return the loops of the models that do jobs and are in memory, by name."""
    loops: dict[str, JobLoop[Any]] = {name: each.model.loop for name, each in seq2seq.items()}
    loops |= {name: each.running.loop for name, each in encoders.items() if each.running is not None}
    for name, each in speech.items():
        loop = getattr(each.recogniser, "loop", None)  # a recogniser of another make may have none
        if isinstance(loop, JobLoop):
            loops[name] = loop
    return loops
