"""Requests of one model over its replicas: dispatched, resumed where a replica dies, ended exactly once.

Owns the thread in which answers come in, the router, the list of members and the retries. Knows no Ray and no text.
Invariants: tokens that came are never asked for again: the rest of an answer is computed elsewhere as what follows
prompt and known tokens, with the same seed; a replica whose files, arithmetic or messages differ is not sent anything;
retries are bounded, and a request that cannot be ended says why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import aclosing

from miaotui.cluster.adapters import PoolAdapters
from miaotui.cluster.messages import Message, RemoteRequest, error_of, logprobs_of
from miaotui.cluster.replica_pool import START_WAIT_S, ReplicaPool
from miaotui.cluster.routing.prefixes import page_hashes
from miaotui.cluster.routing.router import RouteRequest
from miaotui.cluster.routing.scaling import ScaleRange
from miaotui.cluster.transport.channel import Channel, Members
from miaotui.cluster.way import Way
from miaotui.engine.abilities import ModelAbilities
from miaotui.engine.grammar.described import describe
from miaotui.engine.remote.loop import RemoteLoop
from miaotui.engine.remote.state import abilities_of_replicas
from miaotui.engine.request import Request, RequestOptions
from miaotui.engine.sampling.sampler import Choice
from miaotui.errors import EngineError, MiaotuiError, OverloadedError, RefusedError, ReplicaLostError, RequestError
from miaotui.schedule.promises.admission import Quote
from miaotui.schedule.promises.lengths import AnswerLengths
from miaotui.types import SamplingParams

LOG = logging.getLogger("miaotui.cluster")
MOST_LOSSES = 8  # replicas that one request may lose
MOST_REFUSALS = 3  # replicas that are asked after the first refusal of one
RETRY_S = 0.05  # between attempts to find another replica
WAIT_S = 300.0  # for a replica to come where none is left: as long as a large model takes to start
LIKELY = 0.5  # quantile of answer lengths that is reckoned with


class Pool(ReplicaPool):
    """A `Dispatcher` over the replicas of one model. ``expected`` says what they must be, see `admissible`."""

    def __init__(self, name: str, members: Members, expected: Message, scale: ScaleRange | None = None) -> None:
        super().__init__(name, members, expected, self._bring, scale)
        self.loop: RemoteLoop | None = None
        self._lengths = AnswerLengths()
        self.adapters = PoolAdapters(self._events, lambda: self._replicas.channels)
        self.start()

    async def _bring(self, channel: Channel) -> str | None:
        return await self.adapters.bring(channel)

    # from any thread -----------------------------------------------------------------------------

    @property
    def abilities(self) -> ModelAbilities:
        """Return what requests to the replicas can have."""
        return abilities_of_replicas(self._replicas.reports.state)

    def dispatch(self, request: Request, params: SamplingParams, options: RequestOptions) -> None:
        """Choose a replica and send the request on its way, see `Dispatcher.dispatch`."""
        if self.loop is None or self._events.is_closed():
            raise OverloadedError("the server is stopping: ask again in a moment", 1.0)
        constraint = None if options.constraint is None else describe(options.constraint)
        adapter = self.adapters.named(options.adapter)
        route = self._route(request, params, options.begun)
        with self._lock:
            ticket = self._placed(route, time.monotonic())
        request.predicted_ms = 1e3 * ticket.predicted_s
        way = Way(request, params, options, ticket, adapter, constraint)
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

    # the pool's thread ---------------------------------------------------------------------------

    def _start(self, way: Way) -> None:
        number = way.request.number
        task = self._events.create_task(self._answer(way))
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._stopped(way))

    def _stopped(self, way: Way) -> None:
        """End a request whose task was cancelled before it began."""
        self._tasks.pop(way.request.number, None)
        if not way.request.is_over and self.loop is not None:
            self._settle(way, "cancelled")
            self.loop.finish(way.request, "cancelled")

    def _cancel(self, request: Request) -> None:
        task = self._tasks.get(request.number)
        if task is not None:
            task.cancel()

    async def _answer(self, way: Way) -> None:
        """Bring one request to its end."""
        assert self.loop is not None, "dispatched through it"
        error: MiaotuiError | None = None
        try:
            if not way.ticket.replica:
                await self._find_place(way, START_WAIT_S)
                self._note_start()
            while not way.request.is_over:
                try:
                    await self._attempt(way)
                except ReplicaLostError as lost:
                    self._replicas.leave(way.ticket.replica)  # if it is still there, it joins again
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

    async def _attempt(self, way: Way) -> None:
        """Have one replica compute what is left of an answer. Raises what ends this attempt."""
        assert self.loop is not None, "dispatched through it"
        request, options = way.request, way.options
        channel = self._replicas.channels.get(way.ticket.replica)
        if channel is None:
            raise ReplicaLostError(f"the replica {way.ticket.replica} has left")
        spent_ms = 1e3 * (time.perf_counter() - request.timeline.arrived_s)
        prompt = request.prompt[: request.prompt_tokens - len(request.begun)]
        known = (*options.begun, *request.token_ids)
        asked = RemoteRequest(
            prompt,
            way.params,
            request.namespace,
            known,
            options.passages,
            options.deadline,
            spent_ms,
            way.adapter,
            way.constraint,
        )
        async with aclosing(channel.answer(asked.message(request.number))) as pieces:
            async for piece in pieces:
                self._take(way, piece)
                if request.is_over:
                    return
        raise ReplicaLostError(f"the replica {way.ticket.replica} stopped in the middle of an answer")

    def _take(self, way: Way, piece: Message) -> None:
        """Take one piece in. Raises the error that it carries."""
        assert self.loop is not None, "dispatched through it"
        request = way.request
        if "error" in piece:
            raise error_of(piece)
        if "taken" in piece:
            predicted_ms, most = piece["taken"]
            self.loop.begin(request, predicted_ms, None if most is None else len(request.token_ids) + most)
        if "tokens" in piece:
            if piece["at"] != len(way.options.begun) + len(request.token_ids):
                raise ReplicaLostError(f"pieces of the replica {way.ticket.replica} were lost or came twice")
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

    async def _move(self, way: Way, lost: EngineError) -> None:
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
        await self._find_place(way, WAIT_S)
        self.resumed += 1

    async def _find_place(self, way: Way, wait_s: float) -> None:
        """Wait for a replica that takes a request. Raises `RefusedError` where none comes, or none in time."""
        end_s = time.monotonic() + wait_s
        while True:
            try:
                self._pick(way)
            except OverloadedError:
                left_s = way.left_s(None if way.options.deadline is None else way.options.deadline.total_ms)
                if time.monotonic() > end_s or (left_s is not None and left_s <= 0):
                    raise
                way.tried = set()  # it may have been only one answer that failed there
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _ask_another(self, way: Way, refusal: RefusedError) -> None:
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

    def _pick(self, way: Way) -> None:
        route = self._route(way.request, way.params, way.options.begun)
        with self._lock:
            way.ticket = self._router.pick(route, time.monotonic(), way.tried)

    def _settle(self, way: Way, outcome: str) -> None:
        pages: Sequence[int] = ()
        if outcome == "finished":
            pages = page_hashes(
                [*way.request.prompt, *way.request.token_ids], way.request.namespace, str(way.request.adapter)
            )
        with self._lock:
            self._router.done(way.ticket, outcome, time.monotonic(), pages)  # type: ignore[arg-type]  # an `Outcome`

    def _route(self, request: Request, params: SamplingParams, begun: Sequence[int]) -> RouteRequest:
        """Return the parts of a request that decide where it goes, as far as it has come."""
        tokens = [*request.prompt, *request.token_ids]
        pages = page_hashes(tokens, request.namespace, str(request.adapter))
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
