"""Tasks of a request whose texts a chat model writes: their steps run in the event loop.

Owns how steps become requests of a served model, and what every answer reports. Knows no task. Invariants: the
deadline is one for all requests; a client that leaves cancels what is being written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.engine.request import RequestOptions
from miaotui.errors import RequestError
from miaotui.serve.http.bodies import ignored_fields, json_response, unless_gone
from miaotui.serve.middleware.access import caller_of, received, services_of
from miaotui.serve.tasks.written_wire import WrittenFields
from miaotui.serve.wire.params import deadline_for
from miaotui.serve.wire.response_format import form_of
from miaotui.served_model import RequestArguments, ServedModel
from miaotui.tasks.writing.steps import PromptEncoder, Result, RunningTask, WriteRequest, WriteSteps, answer_of
from miaotui.tasks.writing.writer import TOGETHER
from miaotui.text.tool_calls.tooling import Tooling
from miaotui.types import Deadline


@dataclass(frozen=True)
class TextTasks:
    """Tasks of one request, by the name of the model that writes."""

    http: HttpRequest
    body: WrittenFields

    @property
    def deadline(self) -> Deadline | None:
        """Return the deadline of the whole answer."""
        default_ms = services_of(self.http).settings.deadline_ms
        return deadline_for(self.body.deadline_ms, self.body.on_late, self.http.headers, default_ms)

    def model(self) -> ServedModel:
        """Return the chat model that the request names. Raises `ApiError`."""
        return services_of(self.http).models.find(self.body.model, self.body.quality)

    async def run(self, model: ServedModel, tasks: Sequence[Callable[[], WriteSteps[Result]]]) -> list[Result]:
        """Run tasks, unless the client leaves. Raises `RefusedError`."""
        options = RequestOptions(
            caller_of(self.http).namespace, deadline=self.deadline, arrived_s=received(self.http).arrived_s
        )
        received(self.http).drop_body()
        return await unless_gone(self.http.receive, run_tasks(model, tasks, options))

    def answer(self, model: str, data: Sequence[Mapping[str, Any]], tier: str | None = None) -> Response:
        """Return the answer with the report on its deadline; ``tier`` is the model that wrote, of several."""
        took_ms = (time.perf_counter() - received(self.http).arrived_s) * 1e3
        deadline = self.deadline
        asked_ms = None if deadline is None else deadline.total_ms
        report = {
            "asked_ms": asked_ms,
            "took_ms": round(took_ms, 1),
            "met": None if asked_ms is None else took_ms <= asked_ms,
            **({} if tier is None else {"tier": tier}),
        }
        rows = [{**each, "took_ms": each["took_ms"] or round(took_ms, 1)} for each in data]
        found = {"object": "list", "model": model, "data": rows, "deadline": report}
        return json_response(found, headers=ignored_fields(self.body))


async def run_tasks(
    model: ServedModel, tasks: Sequence[Callable[[], WriteSteps[Result]]], options: RequestOptions
) -> list[Result]:
    """Run tasks' steps with a served model and return their results, in order."""
    encoder = PromptEncoder(model.chat, model.tokenizer, model.context)
    results: list[Result] = []
    for first in range(0, len(tasks), TOGETHER):
        running = [RunningTask(make()).start() for make in tasks[first : first + TOGETHER]]
        while waiting := [each for each in running if not each.is_over]:
            await _round(model, encoder, waiting, options)
        results += [each.result for each in running]
    return results


async def _round(
    model: ServedModel, encoder: PromptEncoder, running: Sequence[RunningTask], options: RequestOptions
) -> None:
    """Answer the requests that tasks wait for."""
    made: list[tuple[RunningTask, list[RequestArguments]]] = []
    for task in running:
        try:
            made.append((task, [await _made(model, encoder, request, options) for request in task.requests]))
        except RequestError as error:
            task.throw(error)
    requests = model.submit_all(each for _, arguments in made for each in arguments)
    answers = iter([answer_of(each, model.tokenizer) for each in await model.whole(requests)])
    for task, arguments in made:
        task.send([next(answers) for _ in arguments])


async def _made(
    model: ServedModel, encoder: PromptEncoder, request: WriteRequest, options: RequestOptions
) -> RequestArguments:
    prompt = encoder.prompt(request)
    form = await form_of(model, Tooling(model.dialect), request.grammar)
    chosen = replace(options, constraint=form.constraint(), passages=encoder.passages(request))
    return prompt, request.params, chosen
