"""Summaries that an encoder-decoder writes for a request.

Owns nothing but the order of the steps; `SummarySources` has them. Knows no wire form. Invariant: all of a request's
texts are one job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.requests import Request as HttpRequest

from miaotui.serve.seq2seq.models import ServedSeq2Seq
from miaotui.serve.seq2seq.requests import SourceRuns
from miaotui.tasks.summaries.result import TextSummary
from miaotui.tasks.summaries.sources import SummarySources
from miaotui.tasks.writing.steps import RunningTask, WriteSteps
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
    sources = SummarySources(served.model.model, served.model.settings({}), running)
    if sources.wanted:
        sources.send(await runs.run(sources.wanted))
    return sources.results
