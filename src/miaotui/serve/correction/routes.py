"""``POST /v1/tasks/correct``: spelling and grammar of texts mended.

Owns this route. Knows corrections by `correction_steps`, whose scores are requests of the model. Invariants: the
deadline is one for all scores; a text that cannot be taken has an error, and the others are answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.engine.request import RequestOptions
from miaotui.serve.http.bodies import read_body, unless_gone
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import caller_of, received
from miaotui.serve.tasks.written import TextTasks
from miaotui.serve.tasks.written_wire import CorrectionAnswer, CorrectionRequest
from miaotui.served_model import ServedModel
from miaotui.tasks.correction.corrector import CorrectionSteps, ScoredSentences, SentenceScore, correction_steps
from miaotui.tasks.correction.reading import languages_of, score_read, score_requests
from miaotui.tasks.correction.result import CorrectedText


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    about = "Mend spelling and grammar of texts"
    return [Endpoint("/v1/tasks/correct", "POST", correct, about, body=CorrectionRequest, answer=CorrectionAnswer)]


async def correct(http: HttpRequest) -> Response:
    """Answer with the correction of each text."""
    body = await read_body(received(http).body, CorrectionRequest)
    tasks = TextTasks(http, body)
    model = tasks.model()
    options = RequestOptions(caller_of(http).namespace, deadline=tasks.deadline, arrived_s=received(http).arrived_s)
    received(http).drop_body()
    found = await unless_gone(http.receive, _corrected(model, body.texts, options))
    return tasks.answer(model.name, [each.to_json() for each in found], model.tier)


async def _corrected(model: ServedModel, texts: Sequence[object], options: RequestOptions) -> list[CorrectedText]:
    """Correct one text after the other: the sentences of each are scored together."""
    languages = languages_of(model.tokenizer)
    found = []
    for index, text in enumerate(texts):
        steps = correction_steps(text, languages, index=index, model=model.name)
        found.append(await _run(model, steps, options))
    return found


async def _run(model: ServedModel, steps: CorrectionSteps, options: RequestOptions) -> CorrectedText:
    scores: list[SentenceScore] | None = None
    while True:
        try:  # candidates take milliseconds of a thread
            wanted = await asyncio.to_thread(_advanced, steps, scores)
        except _Ended as ended:
            return ended.result
        requests = model.submit_all(
            (prompt, params, options) for prompt, params in score_requests(wanted, model.tokenizer, model.context)
        )
        scores = [score_read(each, model.tokenizer) for each in await model.whole(requests)]


class _Ended(Exception):  # noqa: N818  (no error: `StopIteration` cannot leave a thread)
    def __init__(self, result: CorrectedText) -> None:
        super().__init__()
        self.result = result


def _advanced(steps: CorrectionSteps, scores: list[SentenceScore] | None) -> ScoredSentences:
    try:
        return next(steps) if scores is None else steps.send(scores)
    except StopIteration as ended:
        raise _Ended(ended.value) from None
