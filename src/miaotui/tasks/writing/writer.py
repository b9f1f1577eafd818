"""A chat model that writes for tasks: `Writer.run` runs the steps of many tasks together.

Owns how requests of tasks become requests of an `LLM`. Knows no task. Invariants: the tasks' requests share passes;
what a task gets depends on its own requests alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

from miaotui.engine.constraint import Constraint
from miaotui.engine.grammar.constraint import Grammars
from miaotui.engine.reading.readers import whole
from miaotui.engine.request import Request, RequestOptions
from miaotui.errors import DeadlineUnattainableError, RequestError
from miaotui.llm import LLM
from miaotui.tasks.writing.steps import PromptEncoder, Result, RunningTask, WriteRequest, WriteSteps, answer_of
from miaotui.types import Deadline

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

TimedResult = TypeVar("TimedResult", bound="DataclassInstance")  # has ``took_ms``
TOGETHER = 64  # tasks that run at once; the engine takes some of their requests at a time


class Writer:
    """A chat model for tasks that write, for any number of threads. The model stays the caller's to close."""

    def __init__(self, llm: LLM) -> None:
        self.llm = llm
        model = llm.loop.model
        self.name: str = model.path.name
        self.encoder = PromptEncoder(model.chat, model.tokenizer, llm.context)

    @cached_property
    def _grammars(self) -> Grammars:
        return Grammars(self.llm.tokenizer, self.llm.config.vocab_size)

    def run(
        self, tasks: Sequence[Callable[[], WriteSteps[Result]]], *, deadline_ms: float | None = None
    ) -> list[Result]:
        """Run tasks and return their results, in order.

        Raises `DeadlineUnattainableError` for what cannot be written by ``deadline_ms``.
        """
        due_s = None if deadline_ms is None else time.perf_counter() + deadline_ms / 1e3
        results: list[Result] = []
        for first in range(0, len(tasks), TOGETHER):
            running = [RunningTask(make()).start() for make in tasks[first : first + TOGETHER]]
            while any(not each.is_over for each in running):
                self._round([each for each in running if not each.is_over], due_s)
            results += [each.result for each in running]
        return results

    def answers(
        self,
        steps: Callable[..., WriteSteps[TimedResult]],
        texts: Iterable[object],
        *,
        first: int = 0,
        deadline_ms: float | None = None,
    ) -> list[TimedResult]:
        """Run ``steps(text, index=...)`` for each text and note in the results how long all took.

        ``first`` is the number of the first text.
        """
        began_s = time.perf_counter()
        tasks = [partial(steps, text, index=index) for index, text in enumerate(texts, first)]
        found = self.run(tasks, deadline_ms=deadline_ms)
        took_ms = (time.perf_counter() - began_s) * 1e3
        return [replace(each, took_ms=took_ms) for each in found]

    def _round(self, running: Sequence[RunningTask], due_s: float | None) -> None:
        """Answer the requests that tasks wait for."""
        made: list[tuple[RunningTask, list[Made]]] = []
        for task in running:
            try:
                made.append((task, [self._made(request) for request in task.requests]))
            except RequestError as error:
                task.throw(error)
        deadline = None if due_s is None else Deadline(left_ms(due_s))
        loop = self.llm.loop

        def submit() -> Iterator[Request]:
            for _, requests in made:
                for request, prompt, constraint in requests:
                    options = RequestOptions(
                        constraint=None if constraint is None else constraint(),
                        deadline=deadline,
                        passages=self.encoder.passages(request),
                    )
                    yield loop.submit(prompt, request.params, options)

        answers = iter([answer_of(each, self.llm.tokenizer) for each in whole(loop, submit)])
        for task, requests in made:
            task.send([next(answers) for _ in requests])

    def _made(self, request: WriteRequest) -> Made:
        prompt = self.encoder.prompt(request)
        return request, prompt, None if request.grammar is None else self._grammars.starter(request.grammar)


Made = tuple[WriteRequest, list[int], "Callable[[], Constraint] | None"]


def left_ms(due_s: float) -> float:
    """Return the milliseconds until ``due_s`` (`time.perf_counter`). Raises `DeadlineUnattainableError` for none."""
    left = (due_s - time.perf_counter()) * 1e3
    if left <= 0:
        raise DeadlineUnattainableError("the texts cannot be written in time: give more time, or fewer texts", 1.0, 0.0)
    return left
