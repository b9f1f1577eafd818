"""``/v1/completions`` for encoder-decoders: texts or token ids are sources, and the answers are their targets.

Owns which of the route's fields mean something here. Knows OpenAI's shapes of an answer. Invariants: a field that
cannot be followed is refused by name; a streamed answer is one event for each text, then the end.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.engine.search.search import FoundTarget
from miaotui.engine.seq2seq.loop import Wanted
from miaotui.errors import EngineError, FieldError
from miaotui.model.seq2seq.generation import GenerationSettings
from miaotui.seq2seq.facade import TargetText
from miaotui.serve.generation import deadline_of
from miaotui.serve.http.bodies import DONE, EventStream, event, ignored_fields, json_response, run
from miaotui.serve.http.errors import bad_value
from miaotui.serve.middleware.access import services_of
from miaotui.serve.openai.completions_wire import CompletionRequest
from miaotui.serve.seq2seq.models import ServedSeq2Seq
from miaotui.serve.seq2seq.requests import SourceRuns
from miaotui.serve.wire.params import wants_usage

REFUSED = (
    "suffix", "echo", "logprobs", "prompt_logprobs", "structured_outputs", "stop", "stop_token_ids", "logit_bias",
    "ignore_eos",
)  # fmt: skip
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "top_p": (1.0,),
    "top_k": (0, -1),
    "min_p": (0.0,),
    "repetition_penalty": (1.0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
}
_MOST_SEEDS = 1 << 63


async def complete(http: HttpRequest, served: ServedSeq2Seq, body: CompletionRequest) -> Response:
    """Answer one request. Raises `ApiError`, `RequestError`, `RefusedError` and `ClientGoneError`."""
    settings = settings_for(served.model.settings({}), body)
    task = served.model.model.plain(settings)
    prompts = body.prompt
    wanted: list[Wanted] = await run(
        sum(map(len, prompts)),
        lambda: [(task.source(each) if isinstance(each, str) else each, settings) for each in prompts],
    )
    runs = SourceRuns(http, served, deadline_of(http, body))
    headers, streams, include_usage = ignored_fields(body), body.stream, wants_usage(body)
    del body  # it may hold megabytes that the answer does not need
    if streams:
        pings_s = services_of(http).settings.ping_s
        return EventStream(_events(served, runs, wanted, include_usage=include_usage), pings_s, headers)
    found = await runs.until_gone(runs.run(wanted))
    texts = [served.model.target_text(*each) for each in zip(found, wanted, strict=True)]
    choices = [_choice(index, each.text, _end(each)) for index, each in enumerate(texts)]
    answer = {**_identity(served), "choices": choices, "usage": _usage(runs), "deadline": runs.report}
    return json_response(answer, headers=headers)


def settings_for(settings: GenerationSettings, body: CompletionRequest) -> GenerationSettings:
    """Return the settings of a request's searches. Raises `ApiError` (400)."""
    for name in REFUSED:
        if getattr(body, name):
            raise bad_value(name, "an encoder-decoder's answers have no place for it: leave it out")
    for name, allowed in NEUTRAL.items():
        value = getattr(body, name)
        if value is not None and value not in allowed:
            raise bad_value(name, f"an encoder-decoder takes {allowed[0]} alone, not {value}")
    given = 1 + len(settings.prefix)
    try:
        if body.max_tokens == 0:
            raise bad_value("max_tokens", "must be at least 1")
        if body.max_tokens is not None:
            settings = replace(settings, max_length=min(settings.max_length, given + body.max_tokens), min_length=0)
        if body.min_tokens:
            settings = replace(settings, min_length=min(given + body.min_tokens, settings.max_length))
        if body.temperature:
            seed = secrets.randbelow(_MOST_SEEDS) if body.seed is None else body.seed % _MOST_SEEDS
            settings = replace(settings, num_beams=1, temperature=body.temperature, seed=seed)
    except FieldError as error:
        raise bad_value(error.field, str(error)) from None
    return settings


async def _events(
    served: ServedSeq2Seq, runs: SourceRuns, wanted: Sequence[Wanted], *, include_usage: bool
) -> AsyncGenerator[str, None]:
    """Yield an event for each piece of a text, then the usage if it is wanted, and the end."""
    identity, sent = _identity(served), [""] * len(wanted)
    async with aclosing(runs.pieces(wanted)) as pieces:
        async for piece in pieces:
            if piece is None:
                yield ""
                continue
            index, found = piece
            if isinstance(found, FoundTarget):
                target = served.model.target_text(found, wanted[index])
                text, end = target.text, _end(target)
            else:
                text, end = served.model.model.text(found, wanted[index][1])[0], None
            new = _continued(text, sent[index], is_whole=end is not None)
            sent[index] += new
            if new or end is not None:
                yield event({**identity, "choices": [_choice(index, new, end)]})
    text = ""
    if include_usage:
        text = event({**identity, "choices": [], "usage": _usage(runs), "deadline": runs.report})
    yield text + DONE


def _continued(text: str, sent: str, *, is_whole: bool) -> str:
    """Return what of a text may be sent behind ``sent``: half a character, and blanks at the end, may still change."""
    stable = text if is_whole else text.rstrip().rstrip("\N{REPLACEMENT CHARACTER}")
    if stable.startswith(sent):
        return stable[len(sent) :]
    if is_whole:
        raise EngineError("the pieces of an answer are not its text; this is a bug, please report it")
    return ""


def _choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _end(target: TargetText) -> str:
    return "length" if target.is_cut else "stop"


def _usage(runs: SourceRuns) -> dict[str, int]:
    return {
        "prompt_tokens": runs.source_tokens,
        "completion_tokens": runs.target_tokens,
        "total_tokens": runs.source_tokens + runs.target_tokens,
    }


def _identity(served: ServedSeq2Seq) -> dict[str, Any]:
    return {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": served.name,
        "system_fingerprint": f"fp_{served.name}",
    }
