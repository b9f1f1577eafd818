"""Whether the engines answer, found out by asking them.

Owns the probe: one token, generated like anyone's, at most once a second however often it is asked
for, because that needs no key. Knows no HTTP. Invariant: a busy engine is a healthy one; red means
that no step ends any more, or that an engine is beginning anew after a fault.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from miaotui.engine.request import RequestOptions
from miaotui.errors import RefusedError
from miaotui.serve.middleware.account import CURRENT, PROBING
from miaotui.serve.served_model import ServedModel
from miaotui.types import SamplingParams

FRESH_S = 1.0
PATIENCE_S = 5.0
_ONE_TOKEN = SamplingParams(max_tokens=1, ignore_eos=True)
_PROMPT = (0,)
_LOG = logging.getLogger("miaotui.serve")


@dataclass(frozen=True)
class Report:
    """How the engines are; ``reason`` is fit for anyone's eyes, None when all is well."""

    reason: str | None
    took_s: float

    @property
    def is_well(self) -> bool:
        """Whether every engine answers."""
        return self.reason is None


class Health:
    """Probes all models; everyone who asks meanwhile gets the same report."""

    def __init__(
        self,
        hosts: Mapping[str, ServedModel],
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hosts, self._patience_s, self._clock = hosts, patience_s, clock
        self._report: Report | None = None
        self._reported_s = 0.0
        self._probing: asyncio.Task[Report] | None = None

    async def report(self) -> Report:
        """How the engines are, at most a second old."""
        if self._report is not None and self._clock() - self._reported_s < FRESH_S:
            return self._report
        if self._probing is None:
            self._probing = asyncio.create_task(self._probe())
        # Shielded: a monitor that hangs up must not stop the probe that others wait for.
        return await asyncio.shield(self._probing)

    async def _probe(self) -> Report:
        CURRENT.set(None)
        PROBING.set(True)
        start_s = self._clock()
        try:
            reasons = await asyncio.gather(*(self._ask(h) for h in self._hosts.values()))
            reason = next((reason for reason in reasons if reason is not None), None)
            self._report = Report(reason, self._clock() - start_s)
            self._reported_s = self._clock()
            return self._report
        finally:
            self._probing = None

    async def _ask(self, hosted: ServedModel) -> str | None:
        if not hosted.loop.healthy:
            return "an engine is restarting after a fault"
        before = _latest_step(hosted)
        try:
            request = hosted.submit(_PROMPT, _ONE_TOKEN, RequestOptions())
            await asyncio.wait_for(hosted.whole([request]), self._patience_s)
        except (RefusedError, asyncio.TimeoutError):
            return await self._is_stuck(hosted, before)
        except Exception as error:
            _LOG.error("the trial request to %s failed", hosted.name, exc_info=error)
            return "an engine failed on a trial request"
        return None

    async def _is_stuck(self, hosted: ServedModel, before: object) -> str | None:
        """Too busy for the trial; that is well as long as steps come to an end."""
        end_s = self._clock() + self._patience_s
        while _latest_step(hosted) is before:
            if not hosted.loop.healthy:
                return "an engine is restarting after a fault"
            if self._clock() >= end_s:
                return f"no step of an engine ended for {self._patience_s:g} s"
            await asyncio.sleep(0.02)
        return None


def _latest_step(hosted: ServedModel) -> object:
    recent = hosted.loop.cost.recent
    return recent[-1] if recent else None
