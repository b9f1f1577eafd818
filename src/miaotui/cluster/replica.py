"""One whole engine as a replica of a pool: what it is, what it could promise, and its answers as messages.

Owns the model and the requests that came in. Knows no router and no Ray: `process_channel` and `on_ray` carry its
messages. Invariants: a request that is not read any more is cancelled; a report costs no pass; a reply to a request
that was begun elsewhere holds new tokens only.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from miaotui.backends.options import EngineOptions
from miaotui.cluster.messages import VERSION, Message, RemoteRequest, end_piece, error_piece, taken, tokens_piece
from miaotui.cluster.routing.forecast import LEVELS, REFERENCE_TOKENS
from miaotui.cluster.routing.prefixes import node_hashes
from miaotui.engine.adapters import LoadedAdapter
from miaotui.engine.grammar.described import restore
from miaotui.engine.loop import EngineLoop
from miaotui.engine.request import Request, RequestOptions
from miaotui.errors import MiaotuiError, RequestError
from miaotui.hub.digest import model_digest
from miaotui.hub.resolve import resolve
from miaotui.runtime import ModelOptions, open_model
from miaotui.schedule.plan import NO_ADAPTER
from miaotui.serve.models import ObservedModel
from miaotui.types import TokenLogprobs

GATHER_S = 0.016  # a frame of a screen
UNKNOWN_S = 0.01  # a token of an engine that promises nothing: only proportions matter
MOST_HELD = 50_000  # pages of prefixes that a description names
MOST_NOTED, MOST_EVICTED = 1 << 16, 512  # evicted pages that are noted, and that one report names
READ_ROWS = 128  # of a step that reads a prompt: what the cost of a token of it is published for


class Replica:
    """A model that answers requests which another process has checked. Make and use it in one event loop."""

    def __init__(self, name: str, loop: EngineLoop, digest: str) -> None:
        self.model, self.digest = ObservedModel(name, loop), digest
        self._loop = loop
        self._prefixes = loop.engine.scheduler.prefixes
        self._prefixes.watch_evictions(MOST_NOTED)

    @property
    def healthy(self) -> bool:
        """Return whether the engine runs."""
        return self._loop.healthy

    @property
    def in_flight(self) -> int:
        """Return the requests that have not ended."""
        return self._loop.in_flight

    @staticmethod
    def open(name: str, model: str, options: Mapping[str, Any] | None = None) -> Replica:
        """Open the model that a cluster file names. Raises a `MiaotuiError`."""
        path = resolve(model)
        chosen = dict(options or {})
        speculate = bool(chosen.pop("speculate", True))
        loop = open_model(path, ModelOptions(EngineOptions(**chosen), speculate))
        try:
            return Replica(name, loop, model_digest(Path(path)))
        except BaseException:
            loop.close()
            raise

    def describe(self) -> Message:
        """Return what decides if this replica may join a pool (versions, digest, arithmetic, sizes), and its place."""
        backend, engine = self._loop.engine.backend, self._loop.engine
        found, stats = backend.identity, backend.stats()
        return {
            "protocol": VERSION,
            "miaotui": version("miaotui"),
            "digest": self.digest,
            "computes": [found.name, sorted(found.formats), found.kv, found.arithmetic],
            "promises": self._loop.can_promise,
            "adapters": backend.capabilities.adapters,
            "context": engine.context,
            "width": engine.scheduler.config.max_sequences,
            "chunk_rows": engine.scheduler.config.chunk_size,
            "pages": engine.scheduler.config.n_pages,
            "weight_bytes": stats.weight_bytes,
            "kv_token_bytes": stats.kv_token_bytes,
            "machine": platform.node(),
            "process": os.getpid(),
            "held": node_hashes(islice(self._prefixes.nodes(), MOST_HELD), str(NO_ADAPTER)),
        }

    def report(self) -> Message:
        """Return what this replica could promise now: its costs, all its work, and prefixes that it holds no more."""
        loop, config = self._loop, self._loop.engine.scheduler.config
        stats = loop.engine.scheduler.stats()
        found = self._promised() if loop.can_promise else self._unpromised()
        found["cost"] |= {"width": config.max_sequences, "kept_pages": config.n_pages}
        return found | {
            "healthy": loop.healthy,
            "running": stats.running,
            "waiting": stats.waiting,
            "pages_used": stats.pages_used,
            "threads": loop.engine.backend.stats().threads,
            "evicted": node_hashes(self._prefixes.take_evicted(MOST_EVICTED), str(NO_ADAPTER)),
        }

    def _promised(self) -> Message:
        """Return what passes cost, and the work that stands in the book of promises."""
        cost = self._loop.cost
        jobs = [entry.job for entry in self._loop.admission.entries()]
        return {
            "cost": {
                "read_s": cost.seconds(READ_ROWS, 0, READ_ROWS * REFERENCE_TOKENS) / READ_ROWS,
                "answer_s": [cost.token_s(n, n, n * REFERENCE_TOKENS) for n in LEVELS],
                "allowance": cost.margin,
            },
            "load": [len(jobs), sum(job.prompt_left for job in jobs), int(sum(job.answer_left for job in jobs))],
            "rates": [[[rows, s / cost.pace] for rows, s in _curve(cost.knots, cost.seconds)], cost.logits_s],
            "attend_s": cost.attend_s,
            "pace": cost.pace,
        }

    def _unpromised(self) -> Message:
        """Return costs that are equal for all replicas, so that the one with the fewest requests is the soonest."""
        return {
            "cost": {"read_s": 1e-5, "answer_s": [UNKNOWN_S * n for n in LEVELS], "allowance": 1.0},
            "load": [self._loop.in_flight, 0, 0],
            "rates": [[[1, UNKNOWN_S], [2, UNKNOWN_S]], 0.0],
            "attend_s": 0.0,
            "pace": 1.0,
        }

    async def adapt(self, message: Mapping[str, Any]) -> Message:
        """Load or unload an adapter; return its rank, its digest and when it was loaded, or the error."""
        adapters = self._loop.adapters
        try:
            if "unload" in message:
                await asyncio.to_thread(adapters.unload, str(message["unload"]))
                return {}
            path = Path(str(message["path"]))
            found = await asyncio.to_thread(adapters.load, str(message["load"]), path)
        except MiaotuiError as error:
            return error_piece(error)
        return {"adapter": [found.rank, found.digest, found.loaded_s]}

    def _adapter_of(self, asked: RemoteRequest) -> LoadedAdapter | None:
        """Return the adapter that a request names. Raises `RequestError` where it is not here, or another one."""
        if asked.adapter is None:
            return None
        name, digest = asked.adapter
        found = self._loop.adapters.get(name)
        if found is None or found.digest != digest:
            raise RequestError(f"the adapter {name!r} was unloaded, or replaced: load it again, or leave it out")
        return found

    async def answer(self, message: Mapping[str, Any]) -> AsyncGenerator[Message, None]:
        """Yield the pieces of one answer; the last one is its end or its error. Closing it early cancels."""
        try:
            asked = RemoteRequest.read(message)
            arrived_s = time.perf_counter() - asked.spent_ms / 1e3
            constraint = None
            if asked.constraint is not None:
                constraint = restore(asked.constraint, self.model.grammars, self.model.tokenizer.token_bytes)
            begun = asked.begun if self._loop.engine.backend.capabilities.resumes else ()  # else from its beginning
            options = RequestOptions(
                asked.namespace,
                constraint,
                asked.deadline,
                arrived_s,
                asked.passages,
                begun=begun,
                adapter=self._adapter_of(asked),
            )
            request = self.model.submit(asked.prompt, asked.params, options)
        except MiaotuiError as error:
            yield error_piece(error)
            return
        try:
            async with aclosing(self._pieces(request, len(asked.begun))) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self.model.leave(request)

    async def _pieces(self, request: Request, known: int) -> AsyncGenerator[Message, None]:
        """Yield the first token at once, then what came within `GATHER_S`, then the rest with the end.

        A message takes some tenths of a millisecond of processor time on its way, more than some tokens do.
        """
        ready = taken(request.predicted_ms, request.ending.max_tokens if request.shortened else None)
        at, ids = known, list[int]()
        logprobs: list[TokenLogprobs] = []
        sent_s = float("-inf")
        try:
            async with aclosing(self.model.pieces(request)) as deltas:
                async for delta in deltas:
                    new, known = delta.token_ids[known:], max(known - len(delta.token_ids), 0)
                    ids += new
                    logprobs += delta.logprobs
                    is_over = delta.finish_reason is not None
                    if not is_over and (not ids or time.perf_counter() - sent_s < GATHER_S):
                        continue
                    if ids:
                        ready |= tokens_piece(ids, at, request.cached_tokens, logprobs)
                        at += len(ids)
                    if delta.finish_reason is not None:
                        ready |= end_piece(delta.finish_reason, request.shortened)
                    yield ready
                    ready, ids, logprobs, sent_s = {}, [], [], time.perf_counter()
        except MiaotuiError as error:
            yield error_piece(error)

    def close(self) -> None:
        """Cancel everything and give the memory back."""
        self.model.close()


def _curve(knots: Any, seconds: Any) -> list[tuple[int, float]]:
    return [(rows, seconds(rows, 0, 0.0)) for rows in knots]
