"""``POST /v1/tasks/generate``: texts under requirements: written to a prompt, rewritten, or continued.

Owns this route. Knows generation by its public calls. Invariant: a prompt that cannot be taken has an error, and the
others are answered.
"""

from __future__ import annotations

from functools import partial

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.serve.http.bodies import read_body
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received
from miaotui.serve.tasks.generation_wire import GenerationAnswer, GenerationTaskRequest
from miaotui.serve.tasks.written import TextTasks
from miaotui.tasks.generation.calls import ASKS, asked_steps


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    about = "Write, rewrite or continue texts"
    return [
        Endpoint("/v1/tasks/generate", "POST", generate, about, body=GenerationTaskRequest, answer=GenerationAnswer)
    ]


async def generate(http: HttpRequest) -> Response:
    """Answer with the text for each prompt."""
    body = await read_body(received(http).body, GenerationTaskRequest)
    tasks = TextTasks(http, body)
    model = tasks.model()
    options = body.options(model.name)
    ask = ASKS[body.mode or "generate"]
    steps = [
        partial(asked_steps, text, options, ask, index=index)  # type: ignore[arg-type]  # checked there
        for index, text in enumerate(body.texts)
    ]
    found = await tasks.run(model, steps)
    return tasks.answer(model.name, [each.to_json() for each in found], model.tier)
