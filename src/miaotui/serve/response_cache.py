"""Answers already given, in front of the engine: what is asked for, given again, and kept.

Owns how a chat request is known to the answer cache, and how a kept answer takes the place of a
request. Knows no wire format. Invariants: a kept answer has the same bytes; what comes with tools,
several choices, log-probabilities, or a temperature without a seed is neither looked up nor kept;
answers never cross API keys.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest

from miaotui.engine.request import Request
from miaotui.hub.store import content_key
from miaotui.retrieval.answers.cache import AnswerCache, AnswerKey, CacheState, Found, may_keep
from miaotui.serve.http.scope import caller_of
from miaotui.serve.served_model import ServedModel
from miaotui.serve.services import services_of
from miaotui.types import Completion, Deadline, Delta, Promise, SamplingParams, Timing

_PIECE_CHARACTERS = 32  # of a replayed stream


@dataclass
class CacheLookup:
    """One request and the cache: what was found, or where its answer is to be kept."""

    cache: AnswerCache
    asking: AnswerKey
    found: Found | None

    @property
    def state(self) -> CacheState:
        """How the answer came about."""
        return "miss" if self.found is None else self.found.how

    def replay(self, deadline: Deadline | None) -> CachedResponse | None:
        """The kept answer as a request that is over; None if there is none."""
        if self.found is None:
            return None
        completion = _restored(self.found)
        return None if completion is None else CachedResponse(completion, deadline)

    def keep_from(self, request: Request) -> None:
        """Keep the answer of a request once it is whole, unless it was cut short for time."""
        before = request.on_settled

        def settled(promise: Promise, *how: Any) -> None:
            if before is not None:
                before(promise, *how)
            if not promise.shortened:
                payload = _stored(request.completion())
                loop = asyncio.get_running_loop()
                loop.run_in_executor(None, self.cache.keep, self.asking, payload)

        request.on_settled = settled


class CachedResponse(Request):
    """A kept answer, read like the request that it takes the place of."""

    def __init__(self, completion: Completion, deadline: Deadline | None) -> None:
        self._whole = completion
        self.prompt_tokens = completion.prompt_tokens
        self.cached_tokens = completion.cached_tokens
        self.finish_reason = completion.finish_reason
        self.deadline, self.error, self.shortened = deadline, None, False
        self._took_ms = 1e3 * completion.timing.total_s

    @property
    def promise(self) -> Promise:
        """It took as long as finding it."""
        asked_ms = None if self.deadline is None else self.deadline.total_ms
        met = None if self.deadline is None else asked_ms is None or self._took_ms <= asked_ms
        return Promise(asked_ms, self._took_ms, self._took_ms, met)

    def completion(self) -> Completion:
        """The kept answer, with the times of finding it."""
        return self._whole

    def pieces(self) -> list[Delta]:
        """The answer as a stream would have brought it, all at once."""
        text, whole = self._whole.text, self._whole
        starts = range(0, len(text), _PIECE_CHARACTERS)
        pieces = [Delta(text[at : at + _PIECE_CHARACTERS], ()) for at in starts]
        return [*pieces, Delta("", whole.token_ids, whole.finish_reason, whole)]


def lookup_for(
    http: HttpRequest,
    hosted: ServedModel,
    params: Sequence[SamplingParams],
    messages: Sequence[Mapping[str, Any]],
    *,
    seed_given: bool,
    tools: bool,
    extra: Mapping[str, Any],
) -> CacheLookup | None:
    """The request as the cache knows it, looked up; None if it must not come from a cache."""
    cache = services_of(http).response_cache
    if cache is None or _declined(http):
        return None
    if not may_keep(params[0], seed_given=seed_given, tools=tools, choices=len(params)):
        return None
    asking = AnswerKey(
        model=model_digest(hosted),
        template=template_digest(hosted),
        namespace=caller_of(http).name,
        params=params[0],
        messages=messages,
        extra={"kind": "chat", **extra},
    )
    return CacheLookup(cache, asking, cache.find(asking))


def model_digest(hosted: ServedModel) -> str:
    """What tells models apart: weights, their packing, how keys and values are kept."""
    digest: str | None = hosted.__dict__.get("_answers_digest")
    if digest is None:
        program = hosted.loaded.parts.runner.program
        formats = sorted(form.value for form in program.weights.formats)
        extra = {"kv": program.pages.kind, "formats": formats, "engine": hosted.fingerprint}
        digest = content_key(hosted.loaded.path, extra)
        hosted.__dict__["_answers_digest"] = digest
    return digest


def template_digest(hosted: ServedModel) -> str:
    """What tells chat templates apart."""
    sources = json.dumps(dict(hosted.template.sources), sort_keys=True)
    return hashlib.sha256(sources.encode("utf-8", "surrogatepass")).hexdigest()


def _declined(http: HttpRequest) -> bool:
    """Whether the client wants a fresh answer."""
    control = http.headers.get("cache-control", "").lower()
    return "no-cache" in control or "no-store" in control


def _stored(completion: Completion) -> bytes:
    row = [completion.text, list(completion.token_ids), completion.prompt_tokens, completion.finish_reason]
    return json.dumps(row).encode()


def _restored(found: Found) -> Completion | None:
    try:
        text, token_ids, prompt_tokens, reason = json.loads(found.payload)
    except ValueError:
        return None
    timing = Timing(found.took_s, found.took_s, 0.0)
    return Completion(text, tuple(token_ids), prompt_tokens, prompt_tokens, reason, timing)
