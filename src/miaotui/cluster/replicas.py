"""The replicas of one pool as they come, report and go.

Owns the ways to them, the reasons of those that may not join, and the latest reports. Knows no requests. Invariants: a
replica whose files, arithmetic or messages differ is not sent anything; one that does not report in time is given up,
so that what it had goes on elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from miaotui.cluster.membership import Reports, admissible, cost_of, load_of
from miaotui.cluster.messages import Message
from miaotui.cluster.routing.forecast import ReplicaCost, ReplicaLoad
from miaotui.cluster.routing.router import Router
from miaotui.cluster.transport.channel import Channel, Members
from miaotui.errors import ReplicaLostError

LOG = logging.getLogger("miaotui.cluster")
LOOK_S, REPORT_S = 0.1, 0.5  # between looks at the members, and between their reports
DESCRIBED_S, REPORTED_S = 60.0, 5.0  # that a replica gets for its description, and for a report


Bring = Callable[[Channel], Awaitable[str | None]]


class Replicas:
    """Those that a router may choose. Used in the pool's event loop; ``lock`` guards the router.

    ``bring`` brings a new one what the others have, and returns why it may not join, None if it may.
    """

    def __init__(
        self, name: str, members: Members, expected: Message, router: Router, lock: threading.Lock, bring: Bring
    ) -> None:
        self.channels: dict[str, Channel] = {}
        self.refused: dict[str, str] = {}  # those that may not join, and why
        self.unreached: dict[str, str] = {}  # those that are there and cannot be reached, and why
        self.reports = Reports()
        self._name, self._members, self._expected = name, members, expected
        self._router, self._lock, self._bring = router, lock, bring

    async def close(self) -> None:
        """Give up all ways."""
        await self._members.close()

    def shown(self, now_s: float) -> dict[str, dict[str, float | bool | str]]:
        """Return what is known of each replica, for people. Call it with the lock."""
        return {
            name: {
                "machine": self.reports.place_of(name)[0],
                "process": self.reports.place_of(name)[1],
                "in_flight": each.all.requests,
                "queue_s": each.all.prompt_tokens * each.cost.read_s,
                "prefix_pages": self._router.prefixes.pages_of(name),
                "takes_requests": not each.draining and each.breaker.allows(now_s),
            }
            for name, each in self._router.replicas.items()
        }

    async def follow(self) -> None:
        """Follow the members as they come, report and go, until this task is cancelled."""
        joining, reporting = dict[str, asyncio.Task[None]](), dict[str, asyncio.Task[None]]()
        reported_s = 0.0
        while True:
            try:
                members = await self._members.current()
            except Exception:
                LOG.exception("the members of %s are not known", self._name)
                await asyncio.sleep(1.0)
                continue
            self._drop_those_not_in(members)
            for name, channel in members.items():
                if name not in self.channels and name not in self.refused and name not in joining:
                    _begin(name, self._join(name, channel), joining)
            if time.monotonic() - reported_s > REPORT_S:
                reported_s = time.monotonic()
                for name in self.channels.keys() - reporting.keys():
                    _begin(name, self._report(name), reporting)
            await asyncio.sleep(LOOK_S)

    def _drop_those_not_in(self, members: Mapping[str, Channel]) -> None:
        for name in [name for name in self.channels if name not in members]:
            self.leave(name)
        for reasons in (self.refused, self.unreached):
            for name in [name for name in reasons if name not in members]:
                del reasons[name]

    async def _join(self, name: str, channel: Channel) -> None:
        """Let a replica join that is what the others are."""
        try:
            described = await asyncio.wait_for(channel.describe(), DESCRIBED_S)
            report = await asyncio.wait_for(channel.report(), REPORTED_S)
        except (ReplicaLostError, asyncio.TimeoutError) as error:
            LOG.info("%s is not there yet: %s", name, error or "it does not answer")
            self.unreached[name] = str(error) or "it does not answer"
            return
        self.unreached.pop(name, None)
        reason = admissible(described, self._expected) or await self._bring(channel)
        if reason is not None:
            LOG.error("the replica %s may not join %s: %s", name, self._name, reason)
            self.refused[name] = reason
            return
        with self._lock:
            self.channels[name] = channel
            self._router.add(name, cost_of(report))
            held = described.pop("held", ())  # of a pool before this one, whose ingress was restarted
            self._router.prefixes.note(name, held)
        self.reports.take(name, described, report)

    async def _report(self, name: str) -> None:
        """Take a replica's report in; one that cannot give any has left."""
        channel = self.channels.get(name)
        if channel is None:
            return
        try:
            report = await asyncio.wait_for(channel.report(), REPORTED_S)
        except (ReplicaLostError, asyncio.TimeoutError):
            channel.abandon()  # its answers go on elsewhere
            self.leave(name)
            return
        load: ReplicaLoad = load_of(report)
        cost: ReplicaCost = cost_of(report)
        with self._lock:
            self._router.update(name, cost, load)
            self._router.prefixes.forget(name, report.get("evicted", ()))
        self.reports.take(name, None, report)

    def leave(self, name: str) -> None:
        """Forget a replica; its requests notice by themselves."""
        with self._lock:
            self.channels.pop(name, None)
            self._router.remove(name)
        self.reports.forget(name)


def _begin(name: str, work: Coroutine[Any, Any, None], tasks: dict[str, asyncio.Task[None]]) -> None:
    """Begin a task that is in ``tasks`` under a replica's name until it ends."""
    task = asyncio.create_task(work)
    tasks[name] = task
    task.add_done_callback(lambda _: tasks.pop(name, None))
