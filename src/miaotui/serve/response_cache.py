"""Cache of answers in front of the engine: requests looked up, answers given again and kept.

Owns how a request is known to the answer cache, and how a kept answer takes the place of a running one. Knows no wire
format. Invariants: a kept answer has the same bytes, and the name of the model that wrote it; an answer of a lower tier
never stands for one of a better tier; requests with tools, several choices, log-probabilities, or a
temperature without a seed are neither looked up nor kept; answers never cross API keys.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request as HttpRequest

from miaotui.engine.request import Request
from miaotui.retrieval.answers.cache import AnswerCache, AnswerKey, CacheState, Found, may_keep
from miaotui.serve.middleware.access import caller_of, services_of
from miaotui.served_model import ServedModel
from miaotui.types import Completion, Deadline, Delta, Promise, SamplingParams, Timing

_PIECE_CHARACTERS = 32  # of a kept answer's stream


@dataclass(frozen=True)
class CacheLookup:
    """One request's place in the cache: what was found there, or where its answer goes."""

    cache: AnswerCache
    key: AnswerKey
    found: Found | None

    @property
    def tier(self) -> str | None:
        """Return the model that wrote the answer that was found, where its name had several behind it."""
        return None if self.found is None else _tier(self.found)

    @property
    def state(self) -> CacheState:
        """Return whether the answer, or a similar question's, was given before."""
        return "miss" if self.found is None else self.found.how

    def forget(self) -> None:
        """Delete the answer to this request from the cache."""
        self.cache.forget(self.key)

    def kept_answers(self, deadline: Deadline | None) -> CachedAnswers | None:
        """Return what was found, as the answers to this request; None if nothing was found."""
        completion = None if self.found is None else _restored(self.found)
        return None if completion is None else CachedAnswers(CachedResponse(completion, deadline))

    def keep_from(self, request: Request, model: ServedModel) -> None:
        """Keep the answer of ``request``, which ``model`` took, once it is whole, unless it was cut short for time."""
        key, tier = replace(self.key, model=model.identity), model.tier

        def keep(promise: Promise, hand_over_s: float, admitted: bool) -> None:
            if not promise.shortened:
                payload = _stored(request.completion(), tier)
                asyncio.get_running_loop().run_in_executor(None, self.cache.keep, key, payload)

        request.settled_listeners.append(keep)


@dataclass(frozen=True)
class CachedResponse:
    """A kept answer, as a `ModelAnswer`; its time is that of finding it."""

    whole: Completion
    deadline: Deadline | None

    @property
    def prompt_tokens(self) -> int:
        """Return tokens of the prompt."""
        return self.whole.prompt_tokens

    @property
    def cached_tokens(self) -> int:
        """Return tokens of the prompt whose work was reused: all of them."""
        return self.whole.cached_tokens

    @property
    def promise(self) -> Promise:
        """Return the state of the answer's deadline."""
        took_ms = 1e3 * self.whole.timing.total_s
        asked_ms = None if self.deadline is None else self.deadline.total_ms
        met = None if self.deadline is None else asked_ms is None or took_ms <= asked_ms
        return Promise(asked_ms, took_ms, took_ms, met)

    def completion(self) -> Completion:
        """Return the kept answer."""
        return self.whole


class CachedAnswers:
    """One kept answer, as an `AnswerBatch`."""

    def __init__(self, kept: CachedResponse) -> None:
        self.answers = (kept,)

    async def pieces(self, silence_s: float) -> AsyncGenerator[list[tuple[int, Delta]], None]:
        """Yield the answer in pieces of the size that a stream brings, all at once."""
        (kept,) = self.answers
        text = kept.whole.text
        starts = range(0, len(text), _PIECE_CHARACTERS)
        pieces = [(0, Delta(text[at : at + _PIECE_CHARACTERS], ())) for at in starts]
        yield [*pieces, (0, Delta("", kept.whole.token_ids, kept.whole.finish_reason, kept.whole))]

    async def whole(self) -> list[Completion]:
        """Return the kept answer."""
        return [kept.whole for kept in self.answers]

    def cancel(self) -> None:
        """Do nothing: nothing runs."""


def lookup_for(
    http: HttpRequest,
    model: ServedModel,
    params: Sequence[SamplingParams],
    messages: Sequence[Mapping[str, Any]],
    *,
    seed_given: bool,
    tools: bool,
    extra: Mapping[str, Any],
) -> CacheLookup | None:
    """Look a request up in the cache of answers; None if it must not come from a cache."""
    cache = services_of(http).response_cache
    if cache is None or _declined(http):
        return None
    if not may_keep(params[0], seed_given=seed_given, tools=tools, choices=len(params)):
        return None
    key = AnswerKey(
        model=model.identity,
        template=template_digest(model),
        namespace=caller_of(http).owner,
        params=params[0],
        messages=messages,
        extra={"kind": "chat", **extra},
    )
    return CacheLookup(cache, key, cache.find(key))


def template_digest(model: ServedModel) -> str:
    """Return what tells chat templates apart."""
    sources = json.dumps(dict(model.chat.template.sources), sort_keys=True)
    return hashlib.sha256(sources.encode("utf-8", "surrogatepass")).hexdigest()


def _declined(http: HttpRequest) -> bool:
    """Return whether the client wants a fresh answer."""
    control = http.headers.get("cache-control", "").lower()
    return "no-cache" in control or "no-store" in control


def _stored(completion: Completion, tier: str | None) -> bytes:
    row = [completion.text, list(completion.token_ids), completion.prompt_tokens, completion.finish_reason, tier]
    return json.dumps(row).encode()


def _tier(found: Found) -> str | None:
    try:
        tier = json.loads(found.payload)[4]
    except (ValueError, IndexError):
        return None
    return tier if isinstance(tier, str) else None


def _restored(found: Found) -> Completion | None:
    try:
        text, token_ids, prompt_tokens, reason, *_ = json.loads(found.payload)
    except ValueError:
        return None
    timing = Timing(found.took_s, found.took_s, 0.0)
    return Completion(text, tuple(token_ids), prompt_tokens, prompt_tokens, reason, timing)
