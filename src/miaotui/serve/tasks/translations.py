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
from miaotui.serve.middleware.access import received, services_of
from miaotui.serve.seq2seq.requests import options_for, translate_texts
from miaotui.serve.tasks.written import TextTasks
from miaotui.serve.tasks.written_wire import TranslationAnswer, TranslationRequest
from miaotui.tasks.translation.translator import translation_steps
from miaotui.translation.languages import AUTO
from miaotui.translation.result import TranslationOptions


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
    served = services_of(http).seq2seq.translator(body.model)
    if served is not None:
        source, form = body.source or AUTO, body.format or "text"
        plain = options_for(served, body.target, source, form, body.glossary, body.alternatives or 0)
        translated = await translate_texts(http, served, tasks.deadline, body.texts, plain)
        return tasks.answer(served.name, [each.to_json() for each in translated])
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
    return tasks.answer(model.name, [each.to_json() for each in found], model.tier)
