"""Jobs of one model over its replicas: texts of encoders, windows of speech models; each ends exactly once.

Owns the thread in which results come in, the router and the retries. Knows no Ray and neither texts nor sound. A job is
short and its results depend on nothing but itself, so one whose replica dies is asked again elsewhere, from its first
result that is not there. Invariants: a result is kept once; a replica whose files or arithmetic differ is not sent
anything; retries are bounded, and a job that cannot be done says why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Any

from miaotui.cluster.messages import VERSION, Message, error_of
from miaotui.cluster.pool import MOST_LOSSES, MOST_REFUSALS, RETRY_S, WAIT_S
from miaotui.cluster.replica_pool import START_WAIT_S, ReplicaPool
from miaotui.cluster.replicas import Bring
from miaotui.cluster.routing.router import Outcome, RouteRequest, Ticket
from miaotui.cluster.routing.scaling import ScaleRange
from miaotui.cluster.transport.channel import Channel, Members
from miaotui.engine.jobs.job import PromisedJob, asked_of
from miaotui.engine.remote.jobs import Content, Take
from miaotui.errors import EngineError, MiaotuiError, OverloadedError, RefusedError, ReplicaLostError, RequestError

LOG = logging.getLogger("miaotui.cluster")
ReadValues = Callable[[Message], Sequence[Any]]


@dataclass
class _JobWay:
    """One job on its way: ``kept`` results are here."""

    job: PromisedJob
    content: Content
    take: Take
    ticket: Ticket
    kept: int = 0
    tried: set[str] = field(default_factory=set)
    losses: int = 0
    refusals: int = 0


class JobPool(ReplicaPool):
    """A `JobDispatcher` over the replicas of one model.

    ``read`` makes values of a piece that carries some. ``bring`` brings a new replica what the others have. ``scale``
    is the range of how many there are; None: others decide that.
    """

    def __init__(
        self,
        name: str,
        members: Members,
        expected: Message,
        read: ReadValues,
        bring: Bring | None = None,
        scale: ScaleRange | None = None,
    ) -> None:
        super().__init__(name, members, expected, bring or _bring_nothing, scale)
        self._read = read
        self.start()

    # from any thread -----------------------------------------------------------------------------

    def published(self, name: str) -> Any:
        """Return a value that all replicas publish, from one of them; None before any has."""
        return self._replicas.reports.published(name)

    def ahead_s(self) -> float:
        """Return the seconds of work that stand before a new job at the replica that has least."""
        with self._lock:
            loads = [each.all.prompt_tokens * each.cost.read_s for each in self._router.replicas.values()]
        return min(loads, default=0.0)

    def dispatch(self, job: PromisedJob, content: Content, take: Take) -> None:
        """Choose a replica and send the job on its way, see `JobDispatcher.dispatch`."""
        if self._events.is_closed():
            raise OverloadedError("the server is stopping: ask again in a moment", 1.0)
        with self._lock:
            ticket = self._placed(_route(job), time.monotonic())
        job.predicted_ms = 1e3 * (time.perf_counter() - job.arrived_s + ticket.predicted_s)
        way = _JobWay(job, content, take, ticket)
        self._events.call_soon_threadsafe(self._start, way)

    def spread(self, work: Callable[[Channel], Coroutine[Any, Any, None]]) -> None:
        """Begin some work with each replica that is here, soon; it handles its own errors."""
        if not self._events.is_closed():
            self._events.call_soon_threadsafe(self._begin_each, work)

    def keep_up(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin some work of the pool itself, which goes on until it is closed."""
        self._events.call_soon_threadsafe(lambda: self._works.add(self._events.create_task(work())))

    def on_channels(self, work: Callable[[Channel], Coroutine[Any, Any, bool]]) -> list[bool]:
        """Do some work with each replica that is here, and wait for the results."""

        async def each() -> list[bool]:
            return list(await asyncio.gather(*map(work, tuple(self._replicas.channels.values()))))

        return asyncio.run_coroutine_threadsafe(each(), self._events).result()

    def _begin_each(self, work: Callable[[Channel], Coroutine[Any, Any, None]]) -> None:
        for channel in tuple(self._replicas.channels.values()):
            task = self._events.create_task(work(channel))
            self._works.add(task)
            task.add_done_callback(self._works.discard)

    # the pool's thread ---------------------------------------------------------------------------

    def _start(self, way: _JobWay) -> None:
        number = way.job.number
        task = self._events.create_task(self._bring_to_its_end(way))
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._stopped(way))
        way.job.future.add_done_callback(lambda _: self._leave_soon(number))

    def _leave_soon(self, number: int) -> None:
        """Cancel the task of a job that has ended, whatever thread ended it."""
        if not self._events.is_closed():
            self._events.call_soon_threadsafe(self._leave, number)

    def _leave(self, number: int) -> None:
        task = self._tasks.get(number)
        if task is not None:
            task.cancel()

    def _stopped(self, way: _JobWay) -> None:
        """Give the ticket of a job back whose task was cancelled before it began."""
        self._tasks.pop(way.job.number, None)
        self._settle(way, "cancelled")
        way.job.cancel()

    async def _bring_to_its_end(self, way: _JobWay) -> None:
        error: MiaotuiError | None = None
        try:
            if not way.ticket.replica:
                await self._find_place(way, START_WAIT_S)
                self._note_start()
            while not way.job.is_over:
                try:
                    await self._attempt(way)
                    break
                except ReplicaLostError as lost:
                    self._replicas.leave(way.ticket.replica)  # if it is still there, it joins again
                    await self._move(way, lost)
                except EngineError as failed:
                    await self._move(way, failed)
                except RefusedError as refusal:
                    self._ask_another(way, refusal)
        except MiaotuiError as found:
            error = found
        except Exception as found:
            LOG.exception("a job of %s failed", self.name)
            error = EngineError(f"the request failed on its way: {type(found).__name__}: {found}. Ask again")
        if error is not None:
            self._settle(way, "client_error" if isinstance(error, RequestError | RefusedError) else "failed")
        else:
            self._settle(way, "finished")
        way.job.end(time.perf_counter(), error)

    async def _attempt(self, way: _JobWay) -> None:
        """Have one replica compute the results that are not here. Raises what ends this attempt."""
        job, channel = way.job, self._replicas.channels.get(way.ticket.replica)
        if channel is None:
            raise ReplicaLostError(f"the replica {way.ticket.replica} has left")
        message = {
            **way.content,
            "version": VERSION,
            "number": job.number,
            "skip": way.kept,
            "deadline": None if job.deadline is None else asdict(job.deadline),
            "spent_ms": 1e3 * (time.perf_counter() - job.arrived_s),
        }
        async with aclosing(channel.answer(message)) as pieces:
            async for piece in pieces:
                if "error" in piece:
                    raise error_of(piece)
                if piece.get("at", way.kept) != way.kept:
                    raise ReplicaLostError(f"pieces of the replica {way.ticket.replica} were lost or came twice")
                for value in self._read(piece):
                    way.take(way.kept, value)
                    way.kept += 1
                if "end" in piece:
                    if way.kept != job.n_results:
                        raise EngineError(f"a replica gave {way.kept} of {job.n_results} results")
                    return
        raise ReplicaLostError(f"the replica {way.ticket.replica} stopped in the middle of a job")

    async def _move(self, way: _JobWay, lost: EngineError) -> None:
        """Choose another replica after one or its engine failed; wait for one. Raises what ends the job."""
        self._settle(way, "failed")
        way.losses += 1
        way.tried = {way.ticket.replica}
        LOG.warning("%s: %s: the job is asked again elsewhere", self.name, lost)
        if way.losses > MOST_LOSSES:
            raise ReplicaLostError(f"{way.losses} replicas were lost under this job. The last: {lost}. Ask again")
        await self._find_place(way, WAIT_S)
        self.resumed += 1

    async def _find_place(self, way: _JobWay, wait_s: float) -> None:
        """Wait for a replica that takes a job. Raises `RefusedError` where none comes, or none in time."""
        end_s = time.monotonic() + wait_s
        while True:
            try:
                self._pick(way)
            except OverloadedError:
                total_s = _route(way.job).total_s
                if time.monotonic() > end_s or (total_s is not None and total_s <= 0):
                    raise
                way.tried = set()  # it may have been only one job that failed there
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _ask_another(self, way: _JobWay, refusal: RefusedError) -> None:
        """Choose another replica after one has refused. Raises the refusal where there is none."""
        self._settle(way, "refused")
        way.refusals += 1
        way.tried.add(way.ticket.replica)
        if way.refusals > MOST_REFUSALS:
            raise refusal
        try:
            self._pick(way)
        except RefusedError:
            raise refusal from None

    def _pick(self, way: _JobWay) -> None:
        with self._lock:
            way.ticket = self._router.pick(_route(way.job), time.monotonic(), way.tried)

    def _settle(self, way: _JobWay, outcome: Outcome) -> None:
        with self._lock:
            self._router.done(way.ticket, outcome, time.monotonic())


def _route(job: PromisedJob) -> RouteRequest:
    """Return the parts of a job that decide where it goes; it has no prefix and no session."""
    asked_ms = None if job.deadline is None else asked_of(job.deadline)
    spent_s = time.perf_counter() - job.arrived_s
    return RouteRequest(
        prompt_tokens=max(job.n_tokens, 1),
        answer_tokens=1,
        session=job.number,
        total_s=None if asked_ms is None else asked_ms / 1e3 - spent_s,
        may_be_late=job.deadline is not None and job.deadline.on_late != "refuse",
    )


async def _bring_nothing(_: Channel) -> str | None:
    return None
