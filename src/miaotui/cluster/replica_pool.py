"""The part that pools of requests and pools of jobs share: replicas, their router, and the thread of both.

Owns the thread's life and what is shown of replicas. Knows neither requests nor jobs. Invariant: after `close` no task
runs and no connection is open.
"""

from __future__ import annotations

import asyncio
import threading
import time

from miaotui.cluster.messages import Message
from miaotui.cluster.replicas import Bring, Replicas
from miaotui.cluster.routing.router import Router
from miaotui.cluster.routing.scaling import Scaler, ScaleRange
from miaotui.cluster.transport.channel import Members
from miaotui.engine.remote.state import RemoteState


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
        self._events = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"miaotui-pool-{name}", daemon=True)

    def start(self) -> None:
        """Begin to follow the replicas."""
        self._thread.start()

    # from any thread -----------------------------------------------------------------------------

    @property
    def state(self) -> RemoteState:
        """Return the state of all replicas together, as published last."""
        return self._replicas.reports.state

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
