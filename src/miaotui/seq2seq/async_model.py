"""The Python entry of encoder-decoders for event loops: `load_seq2seq_async`, then await what `Seq2Seq` waits for.

Owns nothing but the calls: texts are cut into tokens in a thread where there are many, `Seq2SeqLoop` computes.
Invariants: every method of `Seq2Seq` is here with the same parameters; a call that is cancelled cancels its job.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from miaotui.backends.build_seq2seq import Seq2SeqOptions
from miaotui.closing import AsyncClosing
from miaotui.encoder import deadline_of
from miaotui.engine.search.search import FoundTarget
from miaotui.engine.seq2seq.job import TargetJob
from miaotui.engine.seq2seq.loaded import SourceTask
from miaotui.engine.seq2seq.loop import Wanted
from miaotui.runtime import open_seq2seq_model
from miaotui.seq2seq.facade import Seq2SeqFacade, TargetText, listed_texts, piece_options
from miaotui.translation.markup import TextFormat
from miaotui.translation.result import PieceOptions, Translation
from miaotui.types import Progress

Made = TypeVar("Made")
INLINE_CHARACTERS = 4096  # texts up to here are cut into tokens in the event loop itself
RunJob = Callable[[Sequence[Wanted]], Awaitable[list[FoundTarget]]]  # submits a job and waits for it


async def load_seq2seq_async(
    model: str | os.PathLike[str],
    *,
    format: str | None = None,
    threads: int | None = None,
    backend: str = "cpu",
    progress: Progress | None = None,
) -> AsyncSeq2Seq:
    """Load an encoder-decoder as `miaotui.load_seq2seq` does, in a thread; ``progress`` is called in that thread."""
    options = Seq2SeqOptions(backend=backend, format=format or "q8", threads=threads)
    loop = await asyncio.to_thread(open_seq2seq_model, model, options, progress=progress)
    return AsyncSeq2Seq(loop, owns_loop=True)


class AsyncSeq2Seq(Seq2SeqFacade, AsyncClosing):
    """A loaded encoder-decoder, for any number of tasks at once, in any number of event loops; see `Seq2Seq`.

    Close it, or use it in an ``async with`` block, to give its memory back.
    """

    async def translate(
        self,
        texts: str | Iterable[str],
        *,
        source: str | None = None,
        target: str | None = None,
        format: TextFormat = "text",
        glossary: Mapping[str, str] | None = None,
        alternatives: int = 0,
        deadline_ms: float | None = None,
        **search: Any,
    ) -> list[Translation]:
        """Translate texts, see `Seq2Seq.translate`."""
        options = piece_options(self.model, source, target, format, glossary, alternatives)
        return await self.translated(listed_texts(texts), options, search, self._runner(deadline_ms))

    async def summarise(
        self, texts: str | Iterable[str], *, deadline_ms: float | None = None, **search: Any
    ) -> list[TargetText]:
        """Write summaries of texts, see `Seq2Seq.summarise`."""
        return await self.written(texts, self.model.summary(self.settings(search)), self._runner(deadline_ms))

    async def generate(
        self,
        texts: str | Iterable[str],
        *,
        source: str | None = None,
        target: str | None = None,
        deadline_ms: float | None = None,
        **search: Any,
    ) -> list[TargetText]:
        """Write the target of texts as they are, see `Seq2Seq.generate`."""
        return await self.written(texts, self.plain_task(source, target, search), self._runner(deadline_ms))

    async def translated(
        self, texts: Sequence[object], options: PieceOptions, search: Mapping[str, Any], run: RunJob
    ) -> list[Translation]:
        """Translate texts by jobs that ``run`` runs. Raises `RequestError` and what ``run`` raises."""
        rounds = await _read(texts, lambda: self.translation_rounds(texts, options, search))
        while requests := rounds.requests:
            found = await run([(each.tokens, each.settings) for each in requests])
            rounds.send(self.answers(requests, found))
        return rounds.results

    async def written(self, texts: str | Iterable[str], task: SourceTask, run: RunJob) -> list[TargetText]:
        """Write the targets of texts by a job that ``run`` runs. Raises `RequestError` and what ``run`` raises."""
        given = listed_texts(texts)
        wanted = await _read(given, lambda: self.wanted(given, task))
        return [self.target_text(*each) for each in zip(await run(wanted), wanted, strict=True)]

    @staticmethod
    async def wait(job: TargetJob) -> list[FoundTarget]:
        """Wait for a job's results; leaving early cancels it. Raises what it failed with."""
        try:
            return await asyncio.wrap_future(job.future)
        finally:
            job.cancel()

    def _runner(self, deadline_ms: float | None) -> RunJob:
        deadline, arrived_s = deadline_of(deadline_ms), time.perf_counter()

        async def run(wanted: Sequence[Wanted]) -> list[FoundTarget]:
            return await self.wait(self.loop.submit(wanted, deadline, arrived_s))

        return run


async def _read(texts: Sequence[Any], make: Callable[[], Made]) -> Made:
    """Make something of ``texts``, in a thread if they are long."""
    if sum(len(text) for text in texts if hasattr(text, "__len__")) <= INLINE_CHARACTERS:
        return make()
    return await asyncio.to_thread(make)
