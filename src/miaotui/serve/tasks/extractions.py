"""``POST /v1/tasks/extract``: values of texts, by a schema or by types of entities; keywords.

Owns this route. Knows extraction by `extraction_steps`. Invariant: a text that cannot be taken has an error, and the
others are answered.
"""

from __future__ import annotations

import asyncio
from functools import partial

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.serve.http.bodies import read_body
from miaotui.serve.http.errors import bad_value
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received
from miaotui.serve.tasks.written import TextTasks
from miaotui.serve.tasks.written_wire import ExtractionAnswer, ExtractionRequest
from miaotui.tasks.extraction.calls import asked_fields, keyed
from miaotui.tasks.extraction.dates import DateReading
from miaotui.tasks.extraction.extractor import ExtractionOptions, extraction_steps


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    about = "Extract values from texts"
    return [Endpoint("/v1/tasks/extract", "POST", extract, about, body=ExtractionRequest, answer=ExtractionAnswer)]


async def extract(http: HttpRequest) -> Response:
    """Answer with the values of each text."""
    body = await read_body(received(http).body, ExtractionRequest)
    if body.json_schema is not None and body.entities is not None:
        raise bad_value("entities", "give schema or entities, not both: arrays of a schema hold entities")
    tasks = TextTasks(http, body)
    fields = asked_fields(body.json_schema if body.entities is None else body.entities)
    dates = DateReading(body.today_as_date, body.day_order)
    options = ExtractionOptions(fields, body.keywords or 0, bool(body.verbatim), body.threshold or 0.0, dates)
    if not fields:
        words = await asyncio.to_thread(keyed, body.texts, options)
        return tasks.answer("", [each.to_json() for each in words])
    model = tasks.model()
    steps = [
        partial(extraction_steps, text, options, index=index)  # type: ignore[arg-type]  # checked there
        for index, text in enumerate(body.texts)
    ]
    found = await tasks.run(model, steps)
    return tasks.answer(model.name, [{**each.to_json(), "model": model.name} for each in found], model.tier)
