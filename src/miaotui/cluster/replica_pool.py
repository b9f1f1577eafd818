"""The part that pools of requests and pools of jobs share: replicas, their router, and the thread of both.

Owns the thread's life, the count of replicas that are wanted, and what is shown of them. Knows neither requests nor
jobs. Invariants: after `close` no task runs and no connection is open; where no replica runs and the range begins at
none, work is taken in and waits for a start, or is refused at once if its deadline is sooner.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

from miaotui.cluster.messages import Message
from miaotui.cluster.replicas import Bring, Replicas
from miaotui.cluster.routing.router import Router, RouteRequest, Ticket
from miaotui.cluster.routing.scaling import Scaler, ScaleRange
from miaotui.cluster.transport.channel import Members
from miaotui.engine.remote.state import RemoteState
from miaotui.errors import DeadlineUnattainableError

START_S, START_WAIT_S = 30.0, 600.0  # that a replica takes to start, before one has; that a request waits for it


class ReplicaPool:
    """Replicas of one model or of the indexes. ``expected`` says what they must be, see `admissible`.

    ``bring`` brings a new replica what the others have. ``scale`` is the range of how many there are; None: others
    decide that. A subclass calls `start` when it is whole.
    """

    def __init__(
        self, name: str, members: Members, expected: Message, bring: Bring, scale: ScaleRange | None = None
    ) -> None:
        self.name = name
        self.resumed = 0  # what went on elsewhere
        self._scale = scale
        self._scaler = None if scale is None else Scaler(scale, time.monotonic())
        self._router, self._lock = Router(), threading.Lock()
        self._replicas = Replicas(name, members, expected, self._router, self._lock, bring)
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by the number of a request or job
        self._works: set[asyncio.Task[None]] = set()  # of the pool itself
        self._asked_s: float | None = None  # when work found no replica and waits for one
        self._start_s = START_S  # that a replica took to come, the last time one was waited for
        self._events = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"miaotui-pool-{name}", daemon=True)

    def start(self) -> None:
        """Begin to follow the replicas."""
        self._thread.start()

    # from any thread -----------------------------------------------------------------------------

    @property
    def state(self) -> RemoteState:
        """Return the state of all replicas together, as published last."""
        state = self._replicas.reports.state
        return replace(state, asleep=True) if self.may_sleep and not state.engines else state

    @property
    def may_sleep(self) -> bool:
        """Return whether the pool may have no replica, and starts one for the next request."""
        return self._scale is not None and not self._scale.least

    @property
    def has_range(self) -> bool:
        """Return whether the pool says itself how many replicas it wants."""
        return self._scale is not None

    @property
    def refused(self) -> dict[str, str]:
        """Return the replicas that may not join or cannot be reached, and why."""
        return {**self._replicas.unreached, **self._replicas.refused}

    @property
    def replicas(self) -> dict[str, dict[str, float | bool | str]]:
        """Return what the router knows of each replica, for people."""
        with self._lock:
            return self._replicas.shown(time.monotonic())

    def drain(self, replica: str) -> None:
        """Send nothing more to a replica."""
        with self._lock:
            self._router.drain(replica)

    def wait(self, replicas: int, timeout_s: float) -> bool:
        """Wait until so many replicas take work; False after ``timeout_s``."""
        end_s = time.monotonic() + timeout_s
        while self.state.engines < replicas:
            if time.monotonic() > end_s:
                return False
            time.sleep(0.01)
        return True

    def wanted(self, count: int) -> int:
        """Return how many replicas there should be, where ``count`` were wanted last; ``count`` without a range."""
        if self._scaler is None:
            return count
        with self._lock:
            loads = [(each.all, each.cost) for each in self._router.replicas.values()]
            queue_s = sum(load.prompt_tokens * cost.read_s for load, cost in loads)
            if loads:
                self._note_start()
            return self._scaler.wanted(time.monotonic(), count, len(self._tasks), queue_s)

    def _placed(self, route: RouteRequest, now_s: float) -> Ticket:
        """Return a ticket for new work, without a replica where one is being started. Call it with the lock.

        It counts as offered in any case. Raises `RefusedError`.
        """
        is_late = False
        try:
            if not self.may_sleep or self._replicas.channels:
                return self._router.pick(route, now_s)
            if self._asked_s is None:
                self._asked_s = now_s
            left_s = max(self._start_s - (now_s - self._asked_s), 1.0)
            if route.total_s is not None and route.total_s < left_s and not route.may_be_late:
                raise DeadlineUnattainableError(
                    f"no replica of {self.name} runs, and one that is being started takes about {left_s:.0f} s: ask "
                    "again then, or allow more time",
                    left_s,
                    1e3 * left_s,
                )
            return Ticket(0, "", 0, left_s, 0, 0, ())
        except DeadlineUnattainableError:
            is_late = True
            raise
        finally:
            if self._scaler is not None:
                self._scaler.note(self._router.work_s(route), is_late, now_s)

    def _note_start(self) -> None:
        """Learn how long a start takes, from the work that caused it."""
        if self._asked_s is not None:
            self._start_s, self._asked_s = time.monotonic() - self._asked_s, None

    def close(self) -> None:
        """Cancel everything, give up the replicas and end the thread. Closing twice does nothing."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._events).result()
            self._events.call_soon_threadsafe(self._events.stop)
            self._thread.join()

    # the pool's thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._events)
        watch = self._events.create_task(self._replicas.follow())
        self._events.run_forever()
        watch.cancel()
        self._events.run_until_complete(asyncio.gather(watch, return_exceptions=True))
        self._events.close()

    async def _end(self) -> None:
        tasks = [*self._tasks.values(), *self._works]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._replicas.close()
