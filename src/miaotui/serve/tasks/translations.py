"""``POST /v1/tasks/translate``: translations of texts.

Owns this route. Knows translations by `translation_steps`; LibreTranslate's routes are in `serve.libretranslate`.
Invariant: a text that cannot be translated has an error, and the others are answered.
"""

from __future__ import annotations

from functools import partial

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.serve.http.bodies import read_body
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received
from miaotui.serve.tasks.written import TextTasks
from miaotui.serve.tasks.written_wire import TranslationAnswer, TranslationRequest
from miaotui.tasks.translation.languages import AUTO
from miaotui.tasks.translation.translator import TranslationOptions, translation_steps


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    about = "Translate texts"
    return [
        Endpoint("/v1/tasks/translate", "POST", translate, about, body=TranslationRequest, answer=TranslationAnswer)
    ]


async def translate(http: HttpRequest) -> Response:
    """Answer with the translation of each text."""
    body = await read_body(received(http).body, TranslationRequest)
    tasks = TextTasks(http, body)
    model = tasks.model()
    options = TranslationOptions(
        body.target,
        body.source or AUTO,
        body.format or "text",
        body.glossary or {},
        body.alternatives or 0,
        model=model.name,
    )
    steps = [
        partial(translation_steps, text, options, index=index)  # type: ignore[arg-type]  # checked there
        for index, text in enumerate(body.texts)
    ]
    found = await tasks.run(model, steps)
    return tasks.answer(model.name, [each.to_json() for each in found])
