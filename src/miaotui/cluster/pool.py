"""Requests of one model over its replicas: dispatched, resumed where a replica dies, ended exactly once.

Owns the thread in which answers come in, the router, the list of members and the retries. Knows no Ray and no text.
Invariants: tokens that came are never asked for again: the rest of an answer is computed elsewhere as what follows
prompt and known tokens, with the same seed; a replica whose files, arithmetic or messages differ is not sent anything;
retries are bounded, and a request that cannot be ended says why.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from miaotui.cluster.membership import Reports, admissible, cost_of, load_of
from miaotui.cluster.messages import Message, RemoteRequest, error_of, logprobs_of
from miaotui.cluster.routing.forecast import ReplicaCost, ReplicaLoad
from miaotui.cluster.routing.prefixes import page_hashes
from miaotui.cluster.routing.router import Router, RouteRequest, Ticket
from miaotui.cluster.transport.channel import Channel, Members
from miaotui.engine.grammar.described import describe
from miaotui.engine.remote.loop import RemoteLoop
from miaotui.engine.remote.state import RemoteState
from miaotui.engine.request import Request, RequestOptions
from miaotui.engine.sampling.sampler import Choice
from miaotui.errors import EngineError, MiaotuiError, OverloadedError, RefusedError, ReplicaLostError, RequestError
from miaotui.schedule.promises.admission import Quote
from miaotui.schedule.promises.lengths import AnswerLengths
from miaotui.types import SamplingParams

LOG = logging.getLogger("miaotui.cluster")
LOOK_S, REPORT_S = 0.1, 0.5  # between looks at the members, and between their reports
DESCRIBED_S, REPORTED_S = 60.0, 10.0  # that a replica gets for its description, and for a report
MOST_LOSSES = 8  # replicas that one request may lose
MOST_REFUSALS = 3  # replicas that are asked after the first refusal of one
WAIT_S = 20.0  # for a replica to come where none is left
LIKELY = 0.5  # quantile of answer lengths that is reckoned with


@dataclass
class _Way:
    """One request on its way. ``losses``: replicas that died under it."""

    request: Request
    params: SamplingParams
    options: RequestOptions
    ticket: Ticket
    constraint: Message | None
    tried: set[str] = field(default_factory=set)
    losses: int = 0
    refusals: int = 0

    def left_s(self, limit_ms: float | None) -> float | None:
        """Return the seconds that a limit in milliseconds leaves from now."""
        if limit_ms is None:
            return None
        return limit_ms / 1e3 - (time.perf_counter() - self.request.timeline.arrived_s)


class Pool:
    """A `Dispatcher` over the replicas of one model. ``expected`` says what they must be, see `admissible`."""

    def __init__(self, name: str, members: Members, expected: Message) -> None:
        self.name, self.expected = name, expected
        self.refused: dict[str, str] = {}  # replicas that may not join, and why
        self.unreached: dict[str, str] = {}  # replicas that are there and cannot be reached, and why
        self.resumed = 0  # answers that went on elsewhere
        self.loop: RemoteLoop | None = None
        self._members, self._channels = members, dict[str, Channel]()
        self._router, self._lengths, self._reports = Router(), AnswerLengths(), Reports()
        self._lock = threading.Lock()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._events = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"miaotui-pool-{name}", daemon=True)
        self._thread.start()

    # from any thread -----------------------------------------------------------------------------

    @property
    def state(self) -> RemoteState:
        """Return the state of all replicas together, as published last."""
        return self._reports.state

    @property
    def replicas(self) -> dict[str, dict[str, float | bool | str]]:
        """Return what the router knows of each replica, for people."""
        now_s = time.monotonic()
        with self._lock:
            return {
                name: {
                    "machine": self._reports.place_of(name)[0],
                    "process": self._reports.place_of(name)[1],
                    "in_flight": each.all.requests,
                    "queue_s": each.all.prompt_tokens * each.cost.read_s,
                    "prefix_pages": self._router.prefixes.pages_of(name),
                    "takes_requests": not each.draining and each.breaker.allows(now_s),
                }
                for name, each in self._router.replicas.items()
            }

    def dispatch(self, request: Request, params: SamplingParams, options: RequestOptions) -> None:
        """Choose a replica and send the request on its way, see `Dispatcher.dispatch`."""
        if self.loop is None or self._events.is_closed():
            raise OverloadedError("the server is stopping: ask again in a moment", 1.0)
        constraint = None if options.constraint is None else describe(options.constraint)
        route = self._route(request, params, options.begun)
        with self._lock:
            ticket = self._router.pick(route, time.monotonic())
        request.predicted_ms = 1e3 * ticket.predicted_s
        way = _Way(request, params, options, ticket, constraint)
        self._events.call_soon_threadsafe(self._start, way)

    def quote(self, request: Request, params: SamplingParams) -> Quote:
        """Return the prediction for a request that is not sent."""
        route = self._route(request, params, ())
        with self._lock:
            seen, held, fits = self._router.quote(route, time.monotonic())
        return Quote(1e3 * seen.last_s, held, route.answer_tokens, fits, None)

    def cancel(self, request: Request) -> None:
        """End a request early, soon."""
        self._events.call_soon_threadsafe(self._cancel, request)

    def drain(self, replica: str) -> None:
        """Send nothing more to a replica."""
        with self._lock:
            self._router.drain(replica)

    def wait(self, replicas: int, timeout_s: float) -> bool:
        """Wait until so many replicas take requests; False after ``timeout_s``."""
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
        watch = self._events.create_task(self._watch())
        self._events.run_forever()
        watch.cancel()
        self._events.run_until_complete(asyncio.gather(watch, return_exceptions=True))
        self._events.close()

    async def _end(self) -> None:
        for task in tuple(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._members.close()

    def _start(self, way: _Way) -> None:
        number = way.request.number
        task = self._events.create_task(self._answer(way))
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._stopped(way))

    def _stopped(self, way: _Way) -> None:
        """End a request whose task was cancelled before it began."""
        self._tasks.pop(way.request.number, None)
        if not way.request.is_over and self.loop is not None:
            self._settle(way, "cancelled")
            self.loop.finish(way.request, "cancelled")

    def _cancel(self, request: Request) -> None:
        task = self._tasks.get(request.number)
        if task is not None:
            task.cancel()

    async def _answer(self, way: _Way) -> None:
        """Bring one request to its end."""
        assert self.loop is not None, "dispatched through it"
        error: MiaotuiError | None = None
        try:
            while not way.request.is_over:
                try:
                    await self._attempt(way)
                except ReplicaLostError as lost:
                    self._leave(way.ticket.replica)  # if it is still there, it joins again
                    await self._move(way, lost)
                except EngineError as failed:
                    await self._move(way, failed)
                except RefusedError as refusal:
                    self._ask_another(way, refusal)
        except asyncio.CancelledError:
            self._settle(way, "cancelled")
            self.loop.finish(way.request, "cancelled")
            return
        except MiaotuiError as found:
            error = found
        except Exception as found:
            LOG.exception("a request of %s failed", self.name)
            error = EngineError(f"the request failed on its way: {type(found).__name__}: {found}. Ask again")
        if error is not None:
            self._settle(way, "client_error" if isinstance(error, RequestError | RefusedError) else "failed")
            self.loop.finish(way.request, "failed", error)
            return
        if way.request.finish_reason == "stop":
            self._lengths.note(len(way.request.token_ids))
        self._settle(way, "finished")

    async def _attempt(self, way: _Way) -> None:
        """Have one replica compute what is left of an answer. Raises what ends this attempt."""
        assert self.loop is not None, "dispatched through it"
        request, options = way.request, way.options
        channel = self._channels.get(way.ticket.replica)
        if channel is None:
            raise ReplicaLostError(f"the replica {way.ticket.replica} has left")
        spent_ms = 1e3 * (time.perf_counter() - request.timeline.arrived_s)
        prompt = request.prompt[: request.prompt_tokens - len(request.begun)]
        known = (*options.begun, *request.token_ids)
        asked = RemoteRequest(
            prompt, way.params, request.namespace, known, options.passages, options.deadline, spent_ms, way.constraint
        )
        async with aclosing(channel.answer(asked.message(request.number))) as pieces:
            async for piece in pieces:
                self._take(way, piece)
                if request.is_over:
                    return
        raise ReplicaLostError(f"the replica {way.ticket.replica} stopped in the middle of an answer")

    def _take(self, way: _Way, piece: Message) -> None:
        """Take one piece in. Raises the error that it carries."""
        assert self.loop is not None, "dispatched through it"
        request = way.request
        if "error" in piece:
            raise error_of(piece)
        if "taken" in piece:
            predicted_ms, most = piece["taken"]
            self.loop.begin(request, predicted_ms, None if most is None else len(request.token_ids) + most)
        if "tokens" in piece:
            if not request.token_ids:
                request.cached_tokens = piece["cached"]
            ids = piece["tokens"]
            with self._lock:
                self._router.progress(way.ticket, len(ids))
            self.loop.receive(request, list(map(Choice, ids, logprobs_of(piece))), 1)
        if "end" in piece and not request.is_over:
            if piece["end"] == "cancelled":  # the replica is closing
                raise ReplicaLostError(f"the replica {way.ticket.replica} is stopping")
            request.shortened |= bool(piece["shortened"])
            self.loop.finish(request, piece["end"])

    async def _move(self, way: _Way, lost: EngineError) -> None:
        """Choose another replica for the rest of an answer, after a replica or its engine failed; wait for one.

        Raises `ReplicaLostError` after too many losses, and `RefusedError` where the deadline cannot be kept any more.
        """
        request = way.request
        self._settle(way, "failed")
        way.losses += 1
        way.tried = {way.ticket.replica}
        LOG.warning("%s: %s: the answer goes on elsewhere after %d tokens", self.name, lost, len(request.token_ids))
        if way.losses > MOST_LOSSES:
            raise ReplicaLostError(f"{way.losses} replicas were lost under this request. The last: {lost}. Ask again")
        end_s = time.monotonic() + WAIT_S
        while True:
            try:
                self._pick(way)
            except OverloadedError:
                left_s = way.left_s(None if way.options.deadline is None else way.options.deadline.total_ms)
                if time.monotonic() > end_s or (left_s is not None and left_s <= 0):
                    raise
                way.tried = set()  # it may have been only one answer that failed there
                await asyncio.sleep(LOOK_S / 2)
            else:
                self.resumed += 1
                return

    def _ask_another(self, way: _Way, refusal: RefusedError) -> None:
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

    def _pick(self, way: _Way) -> None:
        route = self._route(way.request, way.params, way.options.begun)
        with self._lock:
            way.ticket = self._router.pick(route, time.monotonic(), way.tried)

    def _settle(self, way: _Way, outcome: str) -> None:
        pages: Sequence[int] = ()
        if outcome == "finished":
            pages = page_hashes([*way.request.prompt, *way.request.token_ids], way.request.namespace)
        with self._lock:
            self._router.done(way.ticket, outcome, time.monotonic(), pages)  # type: ignore[arg-type]  # an `Outcome`

    def _route(self, request: Request, params: SamplingParams, begun: Sequence[int]) -> RouteRequest:
        """Return the parts of a request that decide where it goes, as far as it has come."""
        tokens = [*request.prompt, *request.token_ids]
        pages = page_hashes(tokens, request.namespace)
        answer = max(request.ending.max_tokens - len(request.token_ids), 1)
        if params.max_tokens is None:
            likely = self._lengths.quantile(LIKELY, len(begun) + len(request.token_ids))
            answer = min(answer, likely)
        deadline = request.deadline
        spent_s = time.perf_counter() - request.timeline.arrived_s
        total_ms = None if deadline is None else deadline.total_ms
        first_ms = None if deadline is None or request.token_ids else deadline.ttft_ms
        token_ms = None if deadline is None else deadline.tpot_ms
        return RouteRequest(
            prompt_tokens=len(tokens),
            answer_tokens=answer,
            pages=pages,
            session=pages[0] if pages else request.number,
            total_s=None if total_ms is None else total_ms / 1e3 - spent_s,
            first_s=None if first_ms is None else first_ms / 1e3 - spent_s,
            token_s=None if token_ms is None else token_ms / 1e3,
            may_be_late=deadline is not None and deadline.on_late != "refuse",
        )

    # members -------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Follow the members as they come, report and go."""
        joining: dict[str, asyncio.Task[None]] = {}
        reported_s = 0.0
        while True:
            try:
                members = await self._members.current()
            except Exception:
                LOG.exception("the members of %s are not known", self.name)
                await asyncio.sleep(1.0)
                continue
            self._drop_those_not_in(members)
            for name, channel in members.items():
                if name not in self._channels and name not in self.refused and name not in joining:
                    task = asyncio.create_task(self._join(name, channel))
                    joining[name] = task
                    task.add_done_callback(lambda _, name=name: joining.pop(name, None))  # type: ignore[misc]
            if time.monotonic() - reported_s > REPORT_S:
                reported_s = time.monotonic()
                await asyncio.gather(*(self._report(name) for name in tuple(self._channels)))
            await asyncio.sleep(LOOK_S)

    def _drop_those_not_in(self, members: Mapping[str, Channel]) -> None:
        for name in [name for name in self._channels if name not in members]:
            self._leave(name)
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
        reason = admissible(described, self.expected)
        if reason is not None:
            LOG.error("the replica %s may not join %s: %s", name, self.name, reason)
            self.refused[name] = reason
            return
        with self._lock:
            self._channels[name] = channel
            self._router.add(name, cost_of(report))
        self._reports.take(name, described, report)

    async def _report(self, name: str) -> None:
        """Take a replica's report in; one that cannot give any has left."""
        channel = self._channels.get(name)
        if channel is None:
            return
        try:
            report = await asyncio.wait_for(channel.report(), REPORTED_S)
        except (ReplicaLostError, asyncio.TimeoutError):
            channel.abandon()  # its answers go on elsewhere
            self._leave(name)
            return
        load: ReplicaLoad = load_of(report)
        cost: ReplicaCost = cost_of(report)
        with self._lock:
            self._router.update(name, cost, load)
        self._reports.take(name, None, report)

    def _leave(self, name: str) -> None:
        """Forget a replica; its requests notice by themselves."""
        with self._lock:
            self._channels.pop(name, None)
            self._router.remove(name)
        self._reports.forget(name)
