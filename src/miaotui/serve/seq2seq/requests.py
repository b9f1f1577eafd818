"""One HTTP request for an encoder-decoder, between its parsed body and its answer.

Owns what all wire forms share: the jobs of a request under one deadline, their account, and leaving when the client
does. Knows no wire form. Invariant: every job of a request that is over has ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from starlette.requests import Request as HttpRequest

from miaotui.engine.search.search import FoundTarget
from miaotui.engine.seq2seq.job import TargetJob
from miaotui.engine.seq2seq.loop import Wanted
from miaotui.errors import RefusedError
from miaotui.serve.http.bodies import Result, unless_gone
from miaotui.serve.middleware.access import current, received, services_of
from miaotui.serve.seq2seq.models import ServedSeq2Seq
from miaotui.translation.languages import AUTO, model_language
from miaotui.translation.markup import TextFormat
from miaotui.translation.result import PieceOptions, Translation
from miaotui.types import Deadline

Piece = tuple[int, tuple[int, ...] | FoundTarget]


class SourceRuns:
    """The jobs of one request, which `run` submits one after another under one deadline."""

    def __init__(self, http: HttpRequest, served: ServedSeq2Seq, deadline: Deadline | None) -> None:
        self._http, self._served, self._deadline = http, served, deadline
        self._arrived_s = received(http).arrived_s
        self.source_tokens = self.target_tokens = 0
        self._first: TargetJob | None = None

    async def run(
        self, wanted: Sequence[Wanted], listener: Callable[[int, tuple[int, ...]], None] | None = None
    ) -> list[FoundTarget]:
        """Run a job, see `TargetJob` for its ``listener``. Raises `RefusedError`, and what it failed with."""
        jobs, name = services_of(self._http).operations.jobs, self._served.name
        try:
            job = self._served.model.loop.submit(wanted, self._deadline, self._arrived_s)
        except RefusedError as error:
            jobs.refused(name, error)
            raise
        self._first = self._first or job
        job.listener = listener
        with jobs.tracking(name, job):
            found = await self._served.model.wait(job)
        self.source_tokens += job.n_tokens
        self.target_tokens += job.written_tokens
        account = current()
        if account is not None:
            account.use(answer=job.written_tokens)
        return found

    async def pieces(self, wanted: Sequence[Wanted]) -> AsyncGenerator[Piece | None, None]:
        """Run a job; yield (source, its target's tokens so far) as steps end, None after a silence.

        The last piece of each source has its whole `FoundTarget`. Use it in ``contextlib.aclosing``, whose end cancels
        the job. Raises as `run` does.
        """
        queue: asyncio.Queue[Piece | None] = asyncio.Queue()
        loop, ping_s = asyncio.get_running_loop(), services_of(self._http).settings.ping_s

        def listen(place: int, tokens: tuple[int, ...]) -> None:
            with suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(queue.put_nowait, (place, tokens))

        work = asyncio.ensure_future(self.run(wanted, listen))
        work.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while not work.done():
                try:
                    piece = await asyncio.wait_for(queue.get(), ping_s)
                except asyncio.TimeoutError:
                    yield None
                    continue
                if piece is not None:
                    yield piece
            for each in enumerate(work.result()):
                yield each
        finally:
            work.cancel()
            await asyncio.wait([work])

    async def until_gone(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return what ``work`` returns. Raises `ClientGoneError` with its jobs cancelled if the client leaves."""
        received(self._http).drop_body()
        return await unless_gone(self._http.receive, work)

    @property
    def report(self) -> dict[str, Any]:
        """Return how the request stood to its deadline, milliseconds from its last byte."""
        took_ms = (time.perf_counter() - self._arrived_s) * 1e3
        promise = None if self._first is None else self._first.promise
        asked_ms = None if promise is None else promise.asked_ms
        return {
            "asked_ms": asked_ms,
            "predicted_ms": None if promise is None else round(promise.predicted_ms, 1),
            "took_ms": round(took_ms, 1),
            "met": None if asked_ms is None else took_ms <= asked_ms,
            "shortened": False,
        }


async def translate_texts(
    http: HttpRequest, served: ServedSeq2Seq, deadline: Deadline | None, texts: Sequence[object], options: PieceOptions
) -> list[Translation]:
    """Return the translations of texts. Raises `RequestError`, `RefusedError` and `ClientGoneError`."""
    runs = SourceRuns(http, served, deadline)
    return await runs.until_gone(served.model.translated(texts, options, {}, runs.run))


def options_for(
    served: ServedSeq2Seq,
    target: str,
    source: str,
    form: TextFormat,
    glossary: Mapping[str, str] | None = None,
    alternatives: int = 0,
) -> PieceOptions:
    """Return the options of a translation, its languages in the model's words. Raises `FieldError`."""
    named = source if source == AUTO else model_language(source)
    wanted = model_language(target)
    model = served.model.model
    if source != AUTO or len(model.pairs) == 1:
        model.translation(None if named == AUTO else named, wanted, model.generation)  # says what the model lacks
    return PieceOptions(wanted, named, form, dict(glossary or {}), alternatives, model=served.name)
