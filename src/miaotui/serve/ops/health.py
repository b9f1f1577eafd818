"""Health of the engines, found by asking them, and the routes ``/health`` and ``/ready``.

Owns the probe: one token, generated like any request, at most once a second however often it is asked for, since asking
needs no key. Invariants: a busy engine is a healthy one; an engine fails the probe when no step of it ends any more, or
while it restarts after a fault; both routes answer without a key and reveal nothing of the server's insides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.backends.encoder_backend import TextRows
from miaotui.engine.encoding.job import Reduction
from miaotui.engine.encoding.reading import StateReading
from miaotui.engine.jobs.loop import JobLoop
from miaotui.engine.request import RequestOptions
from miaotui.errors import EngineError, RefusedError
from miaotui.schedule.promises.cost import CostModel
from miaotui.serve import LOG
from miaotui.serve.encoders.registry import EncoderEntry
from miaotui.serve.http.bodies import json_response
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import CURRENT, PROBING, services_of
from miaotui.serve.seq2seq.models import ServedSeq2Seq
from miaotui.serve.services import Services
from miaotui.served_model import ServedModel
from miaotui.types import SamplingParams

FRESH_S = 1.0
PATIENCE_S = 5.0
RESTARTING = "an engine is restarting after a fault"
_ONE_TOKEN = SamplingParams(max_tokens=1, ignore_eos=True)
_PROMPT = (0,)
_NOTHING = Reduction("nothing", lambda _index, _states: None, StateReading("states"))


@dataclass(frozen=True)
class HealthReport:
    """Result of a probe; ``reason`` reveals no secret, None when all engines answer."""

    reason: str | None
    took_s: float


class Health:
    """A probe of all models; requests for a report share the probe that is under way."""

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        encoders: Mapping[str, EncoderEntry] = MappingProxyType({}),
        seq2seq: Mapping[str, ServedSeq2Seq] = MappingProxyType({}),
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models, self._encoders, self._seq2seq = models, encoders, seq2seq
        self._patience_s, self._clock = patience_s, clock
        self._report: HealthReport | None = None
        self._reported_s = 0.0
        self._probing: asyncio.Task[HealthReport] | None = None

    async def report(self) -> HealthReport:
        """Return a report that is at most a second old."""
        if self._report is not None and self._clock() - self._reported_s < FRESH_S:
            return self._report
        if self._probing is None:
            self._probing = asyncio.create_task(self._probe())
        # Shielded: a monitor that hangs up must not stop the probe that others wait for.
        return await asyncio.shield(self._probing)

    async def _probe(self) -> HealthReport:
        CURRENT.set(None)
        PROBING.set(True)
        start_s = self._clock()
        try:
            loaded = [entry for entry in self._encoders.values() if entry.running is not None]
            reasons = await asyncio.gather(
                *map(self._ask, self._models.values()),
                *map(self._ask_encoder, loaded),
                *map(self._ask_seq2seq, self._seq2seq.values()),
            )
            reason = next((reason for reason in reasons if reason is not None), None)
            self._report = HealthReport(reason, self._clock() - start_s)
            self._reported_s = self._clock()
            return self._report
        finally:
            self._probing = None

    async def _ask(self, model: ServedModel) -> str | None:
        if not model.loop.healthy:
            return RESTARTING
        if model.loop.may_sleep:  # a trial would start an engine, or keep one from its end
            return None
        before = _latest_step(model)
        try:
            request = model.submit(_PROMPT, _ONE_TOKEN, RequestOptions())
            await asyncio.wait_for(model.whole([request]), self._patience_s)
        except (RefusedError, asyncio.TimeoutError):
            return await self._stuck(model, before)
        except Exception as error:
            LOG.error("the trial request to %s failed", model.name, exc_info=error)
            return "an engine failed on a trial request"
        return None

    async def _ask_encoder(self, entry: EncoderEntry) -> str | None:
        """Have an encoder compute one token; one that is busy, or was put away meanwhile, is healthy."""
        running = entry.running
        if running is None:
            return None

        def trial() -> Awaitable[object]:
            return running.wait(running.loop.submit([TextRows((0,))], _NOTHING))

        return await self._try(entry.name, running.loop, trial)

    async def _ask_seq2seq(self, served: ServedSeq2Seq) -> str | None:
        """Have an encoder-decoder write one token; one that is busy is healthy."""
        model, loop = served.model, served.model.loop
        settings = replace(loop.model.generation, num_beams=1, min_length=0)
        settings = replace(settings, max_length=2 + len(settings.prefix))

        def trial() -> Awaitable[object]:
            return model.wait(loop.submit([((0,), settings)]))

        return await self._try(served.name, loop, trial)

    async def _try(self, name: str, loop: JobLoop[Any], trial: Callable[[], Awaitable[object]]) -> str | None:
        """Return why a model that does jobs failed on a trial, or is stuck; None if it is healthy."""
        if loop.may_sleep:  # as above
            return None
        before = _latest(loop.cost)
        try:
            await asyncio.wait_for(trial(), self._patience_s)
        except (RefusedError, EngineError, asyncio.TimeoutError):
            is_stuck = loop.in_flight > 0 and _latest(loop.cost) is before
            return f"no pass of an {loop.noun} ended for {self._patience_s:g} s" if is_stuck else None
        except Exception as error:
            LOG.error("the trial request to %s failed", name, exc_info=error)
            return f"an {loop.noun} failed on a trial request"
        return None

    async def _stuck(self, model: ServedModel, before: object) -> str | None:
        """Return why a model too busy for the trial is not healthy; None once a step of it ends."""
        end_s = self._clock() + self._patience_s
        while _latest_step(model) is before:
            if not model.loop.healthy:
                return RESTARTING
            if self._clock() >= end_s:
                return f"no step of an engine ended for {self._patience_s:g} s"
            await asyncio.sleep(0.02)
        return None


def routes() -> Sequence[Endpoint]:
    """Return the two routes of this module."""
    return (
        Endpoint("/health", "GET", health, "Whether the engines answer", open=True),
        Endpoint("/ready", "GET", ready, "Whether new requests are welcome", open=True),
    )


async def health(http: HttpRequest) -> Response:
    """Answer 200 if every engine just generated a token, 503 with the reason if not."""
    report = await services_of(http).operations.health.report()
    return _status_response("ok", "failing", report.reason)


async def ready(http: HttpRequest) -> Response:
    """Answer 200 if new requests are welcome, 503 with the reason if not."""
    return _status_response("ready", "not ready", _not_ready(services_of(http)))


def _not_ready(services: Services) -> str | None:
    if services.operations.is_draining:
        return "shutting down"
    if not any((services.models, services.encoders, services.seq2seq, services.speech)):
        return "no model is loaded yet"
    if not all(model.loop.healthy for model in services.models.values()):
        return RESTARTING
    return None


def _status_response(well: str, ill: str, reason: str | None) -> Response:
    body = {"status": well} if reason is None else {"status": ill, "reason": reason}
    return json_response(body, 200 if reason is None else 503, {"cache-control": "no-store"})


def _latest_step(model: ServedModel) -> object:
    """Return something that is another object after each step."""
    loop = model.loop
    return _latest(loop.cost) if loop.can_promise else loop.engine.pass_s


def _latest(cost: CostModel) -> object:
    return cost.recent[-1] if cost.recent else None
