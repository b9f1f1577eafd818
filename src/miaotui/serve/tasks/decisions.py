"""``POST /v1/decisions`` and ``/v1/systemone``: typed questions about an input, answered from a chat model's logits.

Owns these routes. Knows decisions by `decision_steps`, whose readings are requests of the model. Invariants: the
deadline is one for all readings; a client that leaves cancels what is being read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.engine.request import RequestOptions
from miaotui.serve.encoders.requests import find_encoder, run_task
from miaotui.serve.http.bodies import ignored_fields, json_response, read_body, read_object, unless_gone
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import caller_of, received, services_of
from miaotui.serve.tasks.decisions_wire import (
    DecisionFields,
    DecisionsAnswer,
    DecisionsRequest,
    SystemOneRequest,
    openai_answer,
    system_one_answer,
    system_one_question,
    text_of,
    typed_question,
)
from miaotui.serve.wire.params import deadline_for
from miaotui.served_model import ServedModel
from miaotui.tasks.decisions.decider import ModelTokens, logits_read, reading_requests
from miaotui.tasks.decisions.decision import (
    Decision,
    DecisionOptions,
    Likeness,
    LogitsRead,
    Steps,
    TokenReading,
    decision_steps,
    read_questions,
)
from miaotui.tasks.decisions.likeness import likeness, option_phrases
from miaotui.tasks.decisions.questions import ReadQuestion, TypedQuestion
from miaotui.tasks.vectors import vector_task
from miaotui.types import Deadline


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    return [
        Endpoint(
            "/v1/decisions",
            "POST",
            decisions,
            "Answer typed questions from logits (OpenAI)",
            body=DecisionsRequest,
            answer=DecisionsAnswer,
        ),
        Endpoint(
            "/v1/systemone",
            "POST",
            system_one,
            "Answer typed questions from logits (System One)",
            body=SystemOneRequest,
            answer=DecisionsAnswer,
        ),
    ]


async def decisions(http: HttpRequest) -> Response:
    """Answer in OpenAI's form; a body with ``state`` is System One's."""
    if "state" in read_object(received(http).body):
        return await system_one(http)
    body = await read_body(received(http).body, DecisionsRequest)
    questions = {str(place): typed_question(each) for place, each in enumerate(body.questions)}
    found, report = await _decided(http, body, text_of(body), questions)
    answers = [openai_answer(question, each) for question, each in zip(body.questions, found, strict=True)]
    return json_response({**report, "answers": answers}, headers=ignored_fields(body))


async def system_one(http: HttpRequest) -> Response:
    """Answer in System One's form."""
    body = await read_body(received(http).body, SystemOneRequest)
    state = body.state if isinstance(body.state, str) else json.dumps(body.state, ensure_ascii=False)
    questions = {name: system_one_question(each) for name, each in body.questions.items()}
    found, report = await _decided(http, body, state, questions)
    answers = {each.name: system_one_answer(each) for each in found}
    return json_response({**report, "answers": answers}, headers=ignored_fields(body))


async def _decided(
    http: HttpRequest, body: DecisionFields, text: str, questions: Mapping[str, TypedQuestion]
) -> tuple[list[Decision], dict[str, Any]]:
    """Return the decisions, and what every answer tells beside them."""
    services = services_of(http)
    model = services.models.find(body.model, body.quality)
    deadline = deadline_for(body.deadline_ms, body.on_late, http.headers, services.settings.deadline_ms)
    arrived_s = received(http).arrived_s
    options = RequestOptions(caller_of(http).namespace, deadline=deadline, arrived_s=arrived_s)
    alike = await _likeness(http, body, text, questions)
    received(http).drop_body()
    how = DecisionOptions(threshold=body.threshold or 0.0, model=model.name)
    work = _run(model, decision_steps(_tokens(model), text, questions, how, alike), options)
    found = await unless_gone(http.receive, work)
    return found, {
        "object": "decision",
        "created": int(time.time()),
        "model": model.name,
        "usage": _usage(found),
        "deadline": _deadline(deadline, arrived_s, model.tier),
    }


async def _likeness(
    http: HttpRequest, body: DecisionFields, text: str, questions: Mapping[str, TypedQuestion]
) -> Likeness | None:
    """Return the likeness of the text to the options of all questions, None where no encoder is named."""
    if body.encoder is None:
        return None
    asked = {name: each for name, each in read_questions(questions).items() if isinstance(each, ReadQuestion)}
    phrases = {name: option_phrases(each) for name, each in asked.items()}
    texts = [text, *(phrase for each in phrases.values() for phrase in each)]
    entry = find_encoder(http, body.encoder, "embed")
    read = (await run_task(http, entry, body, texts, lambda model: vector_task(model, texts))).result
    found, place = {}, 1
    for name, each in phrases.items():
        found[name] = likeness(read.values[0], read.values[place : place + len(each)])
        place += len(each)
    return lambda _: found


def _tokens(model: ServedModel) -> ModelTokens:
    return ModelTokens(model.chat, model.tokenizer, model.context)


async def _run(model: ServedModel, steps: Steps, options: RequestOptions) -> list[Decision]:
    try:
        readings = next(steps)
        while True:
            readings = steps.send(await _read(model, readings, options))
    except StopIteration as ended:
        found: list[Decision] = ended.value
        return found


async def _read(model: ServedModel, readings: Sequence[TokenReading], options: RequestOptions) -> list[LogitsRead]:
    """Read by requests of one token; all of them are over when this returns or raises."""
    requests = model.submit_all((prompt, params, options) for prompt, params in reading_requests(readings))
    return [logits_read(each) for each in await model.whole(requests)]


def _usage(found: Sequence[Decision]) -> dict[str, Any]:
    asked = sum(each.prompt_tokens for each in found)
    cached = sum(each.cached_tokens for each in found)
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": asked,
    }


def _deadline(deadline: Deadline | None, arrived_s: float, tier: str | None) -> dict[str, Any]:
    took_ms = (time.perf_counter() - arrived_s) * 1e3
    asked_ms = None if deadline is None else deadline.total_ms
    return {
        "asked_ms": asked_ms,
        "took_ms": round(took_ms, 1),
        "met": None if asked_ms is None else took_ms <= asked_ms,
        **({} if tier is None else {"tier": tier}),
    }
