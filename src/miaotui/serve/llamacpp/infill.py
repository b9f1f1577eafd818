"""``POST /infill`` and ``/v1/infill``: the text between two others, whole or as it comes.

Owns the shapes of llama.cpp's answers. Knows no family of models. Invariant: the pieces of a streamed answer, joined,
are the whole answer, which is what the model writes into the gap and nothing else.
"""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.errors import PromptTooLongError
from miaotui.serve.answer import AnswerBatch
from miaotui.serve.generation import GenerationRequest, deadline_of
from miaotui.serve.http.bodies import Events, EventStream, event, ignored_fields, json_response, read_body, run
from miaotui.serve.http.errors import bad_value, context_exceeded
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.llamacpp.infill_wire import TEMPERATURE, InfillAnswer, InfillRequest
from miaotui.serve.middleware.access import received, services_of
from miaotui.serve.wire.infilling import ending_with, infiller_for
from miaotui.serve.wire.params import params_for
from miaotui.text.infill import NamedText
from miaotui.types import Completion

INFILL_PATHS = ("/infill", "/v1/infill")


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    return [
        Endpoint(
            path,
            "POST",
            create,
            "Fill in between two texts (llama.cpp)",
            body=InfillRequest,
            answer=InfillAnswer,
            chunk=InfillAnswer,
        )
        for path in INFILL_PATHS
    ]


async def create(http: HttpRequest) -> Response:
    """Answer one request."""
    body = await read_body(received(http).body, InfillRequest)
    services = services_of(http)
    model = services.models.find(body.model, body.quality)
    if (body.n or 1) > 1:
        raise bad_value("n", "must be 1: a gap is filled once; send several requests")
    infiller = infiller_for(model, "input_suffix")
    if body.temperature is None:
        body.temperature = TEMPERATURE
    params = ending_with(infiller, params_for(body, _limit(body), None))
    files = [NamedText(each.filename, each.text) for each in body.input_extra or ()]
    size = len(body.input_prefix) + len(body.input_suffix) + sum(len(file.text) for file in files)
    encode = partial(
        infiller.encode,
        body.input_prefix,
        body.input_suffix,
        files=files,
        begun=body.prompt or "",
        at_most=model.context - 1,
    )
    try:
        prompt = await run(size, encode)
    except PromptTooLongError as error:
        raise context_exceeded("input_prefix", str(error)) from None
    generation = GenerationRequest(http, model, [prompt], params, deadline_of(http, body, model))
    headers, streams = ignored_fields(body), body.stream
    del body  # it may hold megabytes that the answer does not need
    if streams:
        ping_s = services.settings.ping_s
        return EventStream(_events(generation, ping_s), ping_s, headers)
    batch = generation.submit()
    (completion,) = await generation.whole(batch)
    return json_response(_whole(generation, batch, completion, completion.text), headers=headers)


def _limit(body: InfillRequest) -> int | None:
    """Return the most tokens of the answer; None: as many as the context holds."""
    if body.n_predict is None or body.max_tokens is not None:
        return body.max_tokens
    return None if body.n_predict < 0 else body.n_predict


async def _events(generation: GenerationRequest, ping_s: float) -> Events:
    batch = generation.submit()
    async with aclosing(batch.pieces(ping_s)) as steps:
        async for step in steps:
            text = ""
            for _, delta in step:
                if delta.text:
                    text += event({"index": 0, "content": delta.text, "stop": False})
                if delta.completion is not None:
                    text += event(_whole(generation, batch, delta.completion, ""))
            yield text


def _whole(generation: GenerationRequest, batch: AnswerBatch, completion: Completion, content: str) -> dict[str, Any]:
    """Return the answer with its report."""
    timing = completion.timing
    return {
        "index": 0,
        "content": content,
        "stop": True,
        "model": generation.model.name,
        "tokens_predicted": len(completion.token_ids),
        "tokens_evaluated": completion.prompt_tokens,
        "tokens_cached": completion.cached_tokens,
        "truncated": False,
        "stop_type": "limit" if completion.finish_reason == "length" else "eos",
        "timings": {
            "prompt_n": completion.prompt_tokens - completion.cached_tokens,
            "prompt_ms": round(1000 * max(timing.ttft_s - timing.queue_s, 0.0), 3),
            "predicted_n": len(completion.token_ids),
            "predicted_ms": round(1000 * (timing.total_s - timing.ttft_s), 3),
        },
        "deadline": generation.deadline_report(batch.answers),
    }
