"""One HTTP request's prompts, on their way to the engine.

Owns what all text routes share between the parsed body and the answers: who asks, the deadline,
the identity of the answer. Knows no wire format. Invariant: all of a request's answers are on
their way, or it is refused as a whole.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from starlette.requests import Request as HttpRequest

from miaotui.engine.request import Request, RequestOptions
from miaotui.retrieval.answers.cache import CacheState
from miaotui.serve.http.scope import caller_of, received
from miaotui.serve.http.stream import unless_gone
from miaotui.serve.response_cache import CachedResponse, CacheLookup
from miaotui.serve.served_model import ServedModel
from miaotui.serve.services import services_of
from miaotui.serve.wire.fields import Sampling
from miaotui.serve.wire.output_format import FREE, OutputFormat
from miaotui.serve.wire.params import deadline_for
from miaotui.types import Completion, Deadline, Delta, SamplingParams


@dataclass
class GenerationRequest:
    """Prompts, ``n`` answers to each; answers are in the order of prompts, then of seeds."""

    http: HttpRequest
    hosted: ServedModel
    prompts: Sequence[Sequence[int]]
    params: Sequence[SamplingParams]  # one for each of n
    deadline: Deadline | None
    form: OutputFormat = FREE
    recall: CacheLookup | None = None  # what the cache of answers has to do with it
    created_s: int = field(default_factory=lambda: int(time.time()))
    token: str = field(default_factory=lambda: secrets.token_hex(12))

    @property
    def n(self) -> int:
        """Answers to each prompt."""
        return len(self.params)

    @property
    def arrived_s(self) -> float:
        """When the request's last byte was here, in `time.perf_counter` seconds."""
        return received(self.http).arrived_s

    def submit(self) -> list[Request]:
        """All requests, on their way. Raises what `ServedModel.submit` raises."""
        received(self.http).drop_body()
        kept = None if self.recall is None else self.recall.replay(self.deadline)
        if kept is not None:
            return [kept]
        requests = self._submit_all()
        if self.recall is not None:
            self.recall.keep_from(requests[0])
        return requests

    @property
    def cache(self) -> CacheState:
        """Whether the answer was given before."""
        return "miss" if self.recall is None else self.recall.state

    def pieces(self, requests: Sequence[Request], silence_s: float) -> AsyncGenerator[list[tuple[int, Delta]], None]:
        """See `ServedModel.pieces_of`; a kept answer comes at once."""
        if isinstance(requests[0], CachedResponse):
            return _at_once(requests[0])
        return self.hosted.pieces_of(requests, silence_s)

    def _submit_all(self) -> list[Request]:
        namespace = caller_of(self.http).namespace
        return self.hosted.submit_all(
            (prompt, params, RequestOptions(namespace, self.form.constraint(), self.deadline, self.arrived_s))
            for prompt in self.prompts
            for params in self.params
        )

    async def whole(self, requests: Sequence[Request]) -> list[Completion]:
        """The whole answers. Raises `ClientGoneError`, or what a request failed with."""
        return await unless_gone(self.http.receive, self.whole_unwatched(requests))

    async def whole_unwatched(self, requests: Sequence[Request]) -> list[Completion]:
        """The whole answers, even if the client has gone. Raises what a request failed with."""
        if isinstance(requests[0], CachedResponse):
            return [requests[0].completion()]
        return await self.hosted.whole(requests)

    def leave(self, requests: Sequence[Request]) -> None:
        """Nobody wants these answers any more."""
        self.hosted.leave_all(each for each in requests if not isinstance(each, CachedResponse))


async def _at_once(kept: CachedResponse) -> AsyncGenerator[list[tuple[int, Delta]], None]:
    yield [(0, delta) for delta in kept.pieces()]


def deadline_of(http: HttpRequest, body: Sampling) -> Deadline | None:
    """The deadline that a request names in its body or headers, or the server's default."""
    default_ms = services_of(http).settings.deadline_ms
    return deadline_for(body.deadline_ms, body.on_late, http.headers, default_ms)
