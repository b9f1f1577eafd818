"""Summaries that an encoder-decoder writes: the text is its source, and the result is checked as a chat model's is.

Owns how a summary's request becomes a source. Knows no wire form. Invariant: a text that the model cannot take has an
error, and the others their summaries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.requests import Request as HttpRequest

from miaotui.engine.seq2seq.loop import Wanted
from miaotui.errors import PromptTooLongError
from miaotui.serve.seq2seq.models import ServedSeq2Seq
from miaotui.serve.seq2seq.requests import SourceRuns
from miaotui.tasks.summaries.result import TextSummary
from miaotui.tasks.writing.steps import RunningTask, WriteSteps, WrittenAnswer
from miaotui.types import Deadline


async def summarise_texts(
    http: HttpRequest,
    served: ServedSeq2Seq,
    deadline: Deadline | None,
    tasks: Sequence[Callable[[], WriteSteps[TextSummary]]],
) -> list[TextSummary]:
    """Return summaries; each task asks once, for a summary of the text that it may quote."""
    runs = SourceRuns(http, served, deadline)
    return await runs.until_gone(_summaries(served, runs, [RunningTask(make()).start() for make in tasks]))


async def _summaries(served: ServedSeq2Seq, runs: SourceRuns, running: Sequence[RunningTask]) -> list[TextSummary]:
    model = served.model.model
    task = model.summary(served.model.settings({}))
    taken: list[RunningTask] = []
    wanted: list[Wanted] = []
    for each in running:
        if each.is_over:
            continue
        (request,) = each.requests
        source = task.source(request.passages[0])
        if len(source) > model.max_tokens:
            reason = f"the text has {len(source):,} tokens, and the model takes {model.max_tokens:,}: give parts of it"
            each.throw(PromptTooLongError(reason))
            continue
        taken.append(each)
        wanted.append((source, task.settings))
    found = await runs.run(wanted) if wanted else []
    for each, target, (tokens, settings) in zip(taken, found, wanted, strict=True):
        text, written, is_cut = model.text(target.tokens, settings)
        each.send([WrittenAnswer(text, is_cut, prompt_tokens=len(tokens), tokens=len(written))])
    return [each.result for each in running]
