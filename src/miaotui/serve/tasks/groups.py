"""``POST /v1/tasks/similar`` and ``/v1/tasks/group``: texts that are alike, and groups of texts with names.

Owns these routes. Knows likeness by its public calls. Invariants: all texts of a request are one job of the encoder,
promised as a whole; what follows it runs in a thread; a text that cannot be taken fails alone.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.serve.encoders.requests import find_encoder, run_task
from miaotui.serve.http.bodies import ignored_fields, json_response, read_body
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received
from miaotui.serve.tasks.groups_wire import GroupAnswer, GroupRequest, SimilarAnswer, SimilarRequest
from miaotui.tasks.groups.likeness import duplicate_groups, similar_texts, topic_groups
from miaotui.tasks.groups.results import Grouping
from miaotui.tasks.vectors import vector_task


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    return [
        Endpoint("/v1/tasks/similar", "POST", similar, "Find similar texts", body=SimilarRequest, answer=SimilarAnswer),
        Endpoint("/v1/tasks/group", "POST", group, "Put texts into groups", body=GroupRequest, answer=GroupAnswer),
    ]


async def similar(http: HttpRequest) -> Response:
    """Answer with the texts that are most like each query."""
    body = await read_body(received(http).body, SimilarRequest)
    entry = find_encoder(http, body.model, "embed")
    given = [*body.queries, *body.texts]
    answer = await run_task(http, entry, body, given, lambda model: vector_task(model, given))
    count, texts = len(body.queries), [str(text) for text in body.texts]
    asked, read = answer.result[:count].named("queries"), answer.result[count:]
    found = await asyncio.to_thread(
        lambda: similar_texts(asked, read, texts, top=body.top, least=body.least, model=entry.name)
    )
    deadline = answer.deadline
    data = [replace(each, took_ms=deadline["took_ms"]).to_json() for each in found]
    values = {"object": "list", "model": entry.name, "data": data, "usage": answer.usage, "deadline": deadline}
    return json_response(values, headers=ignored_fields(body))


async def group(http: HttpRequest) -> Response:
    """Answer with groups of the texts, or with their duplicates."""
    body = await read_body(received(http).body, GroupRequest)
    entry = find_encoder(http, body.model, "embed")
    answer = await run_task(http, entry, body, body.texts, lambda model: vector_task(model, body.texts))
    read, texts = answer.result, [str(text) for text in body.texts]

    def grouped() -> Grouping:
        if body.duplicates:
            return duplicate_groups(read, texts, least=body.least, model=entry.name)
        return topic_groups(read, texts, groups=body.groups, model=entry.name)

    found = (await asyncio.to_thread(grouped)).to_json()
    values = {
        "object": "groups",
        "model": entry.name,
        "data": found["texts"],
        "groups": found["groups"],
        "counts": found["counts"],
        "usage": answer.usage,
        "deadline": answer.deadline,
    }
    return json_response(values, headers=ignored_fields(body))
