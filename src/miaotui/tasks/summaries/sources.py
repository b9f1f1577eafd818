"""Summaries that an encoder-decoder writes: a text is its source, and the result is checked as a chat model's is.

Owns how a summary's request becomes a source. Knows neither threads nor HTTP. Invariant: a text that the model cannot
take has an error, and the others their summaries.
"""

from __future__ import annotations

from collections.abc import Sequence

from miaotui.engine.search.search import FoundTarget
from miaotui.engine.seq2seq.loaded import LoadedSeq2Seq
from miaotui.engine.seq2seq.loop import Wanted
from miaotui.errors import PromptTooLongError
from miaotui.model.seq2seq.generation import GenerationSettings
from miaotui.tasks.summaries.result import TextSummary
from miaotui.tasks.writing.steps import RunningTask, WrittenAnswer


class SummarySources:
    """Summaries that run; answer `wanted` with `send`, then `results` are there."""

    def __init__(self, model: LoadedSeq2Seq, settings: GenerationSettings, running: Sequence[RunningTask]) -> None:
        self._model, self._running = model, running
        self._taken: list[RunningTask] = []
        self.wanted: list[Wanted] = []
        task = model.summary(settings)
        for each in running:
            if each.is_over:
                continue
            (request,) = each.requests
            source = task.source(request.passages[0])
            if len(source) > model.max_tokens:
                most = f"the model takes {model.max_tokens:,}"
                each.throw(PromptTooLongError(f"the text has {len(source):,} tokens, and {most}: give parts of it"))
                continue
            self._taken.append(each)
            self.wanted.append((source, task.settings))

    def send(self, found: Sequence[FoundTarget]) -> None:
        """Go on with the targets of `wanted`, in their order."""
        for each, target, (tokens, settings) in zip(self._taken, found, self.wanted, strict=True):
            text, written, is_cut = self._model.text(target.tokens, settings)
            each.send([WrittenAnswer(text, is_cut, prompt_tokens=len(tokens), tokens=len(written))])

    @property
    def results(self) -> list[TextSummary]:
        """Return the summaries, in the order of the texts."""
        return [each.result for each in self._running]
