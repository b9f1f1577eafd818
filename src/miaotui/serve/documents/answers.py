"""``POST /v1/answer``: a question to an index, answered with its passages, whole or as it comes.

Owns this route. Knows question answering by its public calls. Invariant: searching and checking run in
threads, never in the event loop; a caller's answers come from indexes that this caller may search.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.apps.answering import ANSWER_TOKENS, Answer, checked_question
from miaotui.apps.qa_pipeline import QaPipeline, Question
from miaotui.errors import IndexMissingError
from miaotui.llm import LLM
from miaotui.serve.documents.apps_wire import AnswerBody, AnswerPieceBody, AnswerRequest
from miaotui.serve.documents.threads import streamed
from miaotui.serve.http.bodies import (
    DONE,
    Events,
    EventStream,
    event,
    ignored_fields,
    json_response,
    read_body,
    unless_gone,
)
from miaotui.serve.http.errors import ApiError
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import caller_of, received, services_of
from miaotui.served_model import ServedModel


def routes() -> list[Endpoint]:
    """Return the route of this module."""
    return [
        Endpoint(
            "/v1/answer",
            "POST",
            create,
            "Answer a question from an index, with checked citations",
            body=AnswerRequest,
            answer=AnswerBody,
            chunk=AnswerPieceBody,
        )
    ]


async def create(http: HttpRequest) -> Response:
    """Answer one question."""
    body = await read_body(received(http).body, AnswerRequest)
    services, caller = services_of(http), caller_of(http)
    model = services.models.find(body.model) if body.mode == "generated" or body.model else None
    question = Question(
        checked_question(body.question),
        body.index,
        body.mode,
        body.deadline_ms,
        caller.owner,
        caller.namespace,
        body.max_tokens or ANSWER_TOKENS,
    )
    parts = _Parts(http, model, body.graph)
    headers = ignored_fields(body)
    if body.stream:
        ping_s = services.settings.ping_s
        return EventStream(_events(parts, question), ping_s, headers)
    answer = await unless_gone(http.receive, _whole(parts, question))
    return json_response(_body(answer, model), headers=headers)


class _Parts:
    """Makes the parts of answers, in a thread. Made in the event loop."""

    def __init__(self, http: HttpRequest, model: ServedModel | None, graph: str | None) -> None:
        self.model, self._graph = model, graph
        services = services_of(http)
        self._services, self._cache = services, services.response_cache
        self._caller = caller_of(http)
        self._llm = None if model is None else LLM(model.loop, adapter=model.adapter)
        self._model_key = "" if model is None else model.identity

    def of(self, question: Question) -> Iterator[str | Answer]:
        """Yield text as it comes, then the whole answer. Raises `ApiError` (404) for no such index, `RequestError` for
        no such graph."""
        try:
            index = self._services.indexes.to_search(self._caller, question.index)
        except IndexMissingError as error:
            raise ApiError(404, str(error), param="index", code="index_not_found") from error
        meaning = self._services.meaning
        reranker = None if meaning is None else meaning.reranker
        searched = self._services.searchable(index)
        graph = None if self._graph is None else self._services.graph(self._graph)
        yield from QaPipeline(searched, self._llm, self._cache, self._model_key, reranker, graph).ask(question)


async def _whole(parts: _Parts, question: Question) -> Answer:
    whole = None
    async with aclosing(streamed(lambda: parts.of(question))) as coming:
        async for part in coming:
            whole = part if isinstance(part, Answer) else whole
    assert whole is not None, "a pipeline ends with the whole answer"
    return whole


async def _events(parts: _Parts, question: Question) -> Events:
    async with aclosing(streamed(lambda: parts.of(question))) as coming:
        async for part in coming:
            if isinstance(part, Answer):
                yield event(_body(part, parts.model)) + DONE
            else:
                yield event({"object": "answer.piece", "text": part})


def _body(answer: Answer, model: ServedModel | None) -> dict[str, Any]:
    name = "" if model is None or answer.how not in ("generated", "selected") else model.name
    rounded = replace(answer, took_ms=round(answer.took_ms, 2), strength=round(answer.strength, 3))
    return {"object": "answer", "model": name, **rounded.to_json()}
