"""The Python entry of encoders for event loops: `load_encoder_async`, then await what `Encoder` waits for.

Owns nothing but the calls: texts are cut into tokens in a thread where there are many, `EncoderLoop` computes.
Invariants: every method of `Encoder` is here with the same parameters; a task that is cancelled cancels its job.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from miaotui.closing import AsyncClosing
from miaotui.encoder import EncoderFacade, Floats, deadline_of, read_encoder_options
from miaotui.encoders import ranking, tasks
from miaotui.encoders.inputs import ReadOptions, Text, text_list
from miaotui.encoders.results import Classification, MaskFill, RankedDocument, TaggedSpan
from miaotui.encoders.runtime import run_encoder
from miaotui.encoders.spans import Aggregation
from miaotui.encoders.tasks import EncodeTask
from miaotui.engine.encoding.job import EncodeJob
from miaotui.types import Deadline, Progress

Result = TypeVar("Result")
INLINE_CHARACTERS = 4096  # texts up to here are cut into tokens in the event loop itself


async def load_encoder_async(
    model: str | os.PathLike[str],
    *,
    format: str | None = None,
    threads: int | None = None,
    max_tokens: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> AsyncEncoder:
    """Load an encoder as `miaotui.load_encoder` does, in a thread; ``progress`` is called in that thread."""
    chosen = read_encoder_options(format=format, threads=threads, max_tokens=max_tokens, **options)
    opened = await asyncio.to_thread(run_encoder, model, chosen, progress=progress)
    return AsyncEncoder(*opened, owns_loop=True)


class AsyncEncoder(EncoderFacade, AsyncClosing):
    """A loaded encoder, for any number of tasks at once, in any number of event loops; see `Encoder`.

    Close it, or use it in an ``async with`` block, to give its memory back.
    """

    async def embed(
        self,
        texts: Text | Iterable[Text],
        prompt: str | None = "query",
        dimensions: int | None = None,
        *,
        normalize: bool | None = None,
        truncate: bool = False,
        deadline_ms: float | None = None,
    ) -> Floats:
        """Return embeddings, float32 ``[n, dimensions]``, see `Encoder.embed`."""
        given, options = text_list(texts), ReadOptions(truncate=truncate)
        return await self._result(
            given,
            lambda: tasks.embed(self.model, given, options, prompt=prompt, dimensions=dimensions, normalize=normalize),
            deadline_ms,
        )

    async def classify(
        self, texts: Text | Iterable[Text], *, truncate: bool = False, deadline_ms: float | None = None
    ) -> list[Classification]:
        """Return each text's label, see `Encoder.classify`."""
        given, options = text_list(texts), ReadOptions(truncate=truncate)
        return await self._result(given, lambda: tasks.classify(self.model, given, options), deadline_ms)

    async def tag(
        self,
        texts: str | Iterable[str],
        *,
        aggregation: Aggregation = "simple",
        truncate: bool = False,
        deadline_ms: float | None = None,
    ) -> list[list[TaggedSpan]]:
        """Return the labelled stretches of each text, see `Encoder.tag`."""
        given, options = text_list(texts), ReadOptions(truncate=truncate)
        return await self._result(
            given, lambda: tasks.tag(self.model, given, options, aggregation=aggregation), deadline_ms
        )

    async def fill_mask(
        self, texts: str | Iterable[str], *, top_k: int = 5, truncate: bool = False, deadline_ms: float | None = None
    ) -> list[list[list[MaskFill]]]:
        """Return the likeliest tokens for each mask of each text, see `Encoder.fill_mask`."""
        given, options = text_list(texts), ReadOptions(truncate=truncate)
        return await self._result(given, lambda: tasks.fill_mask(self.model, given, options, top_k=top_k), deadline_ms)

    async def rerank(
        self,
        query: str,
        documents: Sequence[str],
        top_n: int | None = None,
        *,
        truncate: bool = False,
        deadline_ms: float | None = None,
    ) -> list[RankedDocument]:
        """Return documents by how well they answer the query, see `Encoder.rerank`."""
        options = ReadOptions("documents", truncate=truncate)
        return await self._result(
            [query, *documents], lambda: ranking.rerank(self.model, query, documents, options, top_n=top_n), deadline_ms
        )

    async def score(
        self, pairs: Sequence[tuple[str, str]], *, truncate: bool = False, deadline_ms: float | None = None
    ) -> Floats:
        """Return how well each pair's second text answers the first, see `Encoder.score`."""
        options = ReadOptions("pairs", truncate=truncate)
        sides = [side for pair in pairs for side in pair]
        scored = await self._result(sides, lambda: ranking.score(self.model, pairs, options), deadline_ms)
        return np.array([each.raw_score for each in scored], np.float32)

    async def read(self, texts: Sequence[Any], make: Callable[[], EncodeTask[Result]]) -> EncodeTask[Result]:
        """Make a task of ``texts``, in a thread if they are long."""
        if sum(len(text) for text in texts if hasattr(text, "__len__")) <= INLINE_CHARACTERS:
            return make()
        return await asyncio.to_thread(make)

    async def run(
        self, task: EncodeTask[Result], deadline: Deadline | None = None, arrived_s: float | None = None
    ) -> Result:
        """Submit a task and wait for its result. Raises `RefusedError`, and what its job failed with."""
        return task.finish(await self.wait(self.submit(task, deadline, arrived_s)))

    @staticmethod
    async def wait(job: EncodeJob) -> list[Any]:
        """Wait for a job's results; leaving early cancels it. Raises what it failed with."""
        try:
            return await asyncio.wrap_future(job.future)
        finally:
            job.cancel()

    async def _result(
        self, texts: Sequence[Any], make: Callable[[], EncodeTask[Result]], deadline_ms: float | None
    ) -> Result:
        return await self.run(await self.read(texts, make), deadline_of(deadline_ms))
