"""``POST /v1/tasks/summarize``: summaries of texts, extracted or written.

Owns this route. Knows summaries by their public calls. Invariants: extraction runs in a thread; under a deadline the
texts for which no time is left have an error, and the others their summaries.
"""

from __future__ import annotations

import asyncio
from functools import partial

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.serve.http.bodies import read_body
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received, services_of
from miaotui.serve.seq2seq.summaries import summarise_texts
from miaotui.serve.tasks.written import TextTasks
from miaotui.serve.tasks.written_wire import SummaryAnswer, SummaryRequest
from miaotui.tasks.summaries.abstractive import written_summary
from miaotui.tasks.summaries.calls import extracted
from miaotui.tasks.summaries.result import SummaryLength


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    return [
        Endpoint("/v1/tasks/summarize", "POST", summarize, "Summarise texts", body=SummaryRequest, answer=SummaryAnswer)
    ]


async def summarize(http: HttpRequest) -> Response:
    """Answer with the summary of each text."""
    body = await read_body(received(http).body, SummaryRequest)
    length = SummaryLength(body.sentences, body.words, body.seconds, body.unit or "sentence")
    tasks, tier = TextTasks(http, body), None
    services = services_of(http)
    served = services.seq2seq.named(body.model, instead=not services.models) if body.method == "write" else None
    if served is not None:
        made = [
            partial(written_summary, text, length, index=index, model=served.name)  # type: ignore[arg-type]
            for index, text in enumerate(body.texts)
        ]
        found, name = await summarise_texts(http, served, tasks.deadline, made), served.name
    elif body.method == "write":
        model = tasks.model()
        steps = [
            partial(written_summary, text, length, index=index, model=model.name)  # type: ignore[arg-type]
            for index, text in enumerate(body.texts)
        ]
        found, name, tier = await tasks.run(model, steps), model.name, model.tier
    else:
        deadline, arrived_s = tasks.deadline, received(http).arrived_s
        total_ms = None if deadline is None or deadline.on_late == "best_effort" else deadline.total_ms
        due_s = None if total_ms is None else arrived_s + total_ms / 1e3
        found, name = await asyncio.to_thread(extracted, body.texts, length, due_s=due_s), ""
    return tasks.answer(name, [each.to_json() for each in found], tier)
