"""The Python entry of encoders for threads: `load_encoder`, then `Encoder.embed`, `rerank`, `classify` and others.

Owns nothing but the calls: `encoders` reads what a caller gives and makes the results, `EncoderLoop` runs it.
`AsyncEncoder` is its twin for event loops. Invariant: when a call returns or raises, its jobs have ended.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.options import EncoderOptions
from miaotui.closing import Closing, LoopHolder
from miaotui.encoders import ranking, tasks
from miaotui.encoders.inputs import ReadOptions, Text, text_list
from miaotui.encoders.results import Classification, MaskFill, RankedDocument, TaggedSpan
from miaotui.encoders.runtime import run_encoder
from miaotui.encoders.spans import Aggregation
from miaotui.encoders.tasks import EncodeTask
from miaotui.engine.encoding.job import EncodeJob
from miaotui.engine.encoding.loaded import LoadedEncoder
from miaotui.engine.encoding.loop import EncodingLoop
from miaotui.kernels.linear.formats import Format
from miaotui.submission import require_known
from miaotui.types import Deadline, Progress

Result = TypeVar("Result")
Floats = NDArray[np.float32]
JOB_TEXTS = 256  # of one job: so many texts are cut into tokens while others are computed
JOBS_AHEAD = 2


def load_encoder(
    model: str | os.PathLike[str],
    *,
    format: str | None = None,
    threads: int | None = None,
    max_tokens: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Encoder:
    """Load an encoder by catalog name, folder (also of sentence-transformers), GGUF or ONNX file, or repository id.

    ``format`` (``q8``, ``q4``, ``f32``) is how weights stored as floats are kept; ``max_tokens`` lowers the model's
    own limit of a text. Further options are those of `EncoderOptions`. Raises a `MiaotuiError`.
    """
    chosen = read_encoder_options(format=format, threads=threads, max_tokens=max_tokens, **options)
    return Encoder(*run_encoder(model, chosen, progress=progress), owns_loop=True)


def read_encoder_options(*, format: str | None, **options: Any) -> EncoderOptions:
    """Return the keywords of `load_encoder` as `EncoderOptions`. Raises `RequestError`."""
    require_known(options, tuple(EncoderOptions.__dataclass_fields__))
    return EncoderOptions(format=None if format is None else Format(format), **options)


class EncoderFacade(LoopHolder[EncodingLoop]):
    """Base of `Encoder` and `AsyncEncoder`: one loop and its model.

    With ``owns_loop`` the loop is closed when this object is dropped.
    """

    def __init__(self, model: LoadedEncoder, loop: EncodingLoop, *, owns_loop: bool = False) -> None:
        super().__init__(loop, owns_loop=owns_loop)
        self.model = model

    @property
    def dimensions(self) -> int:
        """Return the length of an embedding."""
        return self.model.width

    @property
    def max_tokens(self) -> int:
        """Return tokens of the longest text, special tokens included."""
        return self.model.max_tokens

    @property
    def labels(self) -> list[str]:
        """Return the labels of `classify` and `tag`."""
        return tasks.label_names(self.model)

    def submit(
        self, task: EncodeTask[Any], deadline: Deadline | None = None, arrived_s: float | None = None
    ) -> EncodeJob:
        """Submit a task as one job. Raises `RefusedError`."""
        return self.loop.submit(task.rows, task.reduction, deadline, arrived_s)


class Encoder(Closing, EncoderFacade):
    """A loaded encoder, for any number of threads at once.

    Close it, or use it in a ``with`` block, to give its memory back. Every call takes ``truncate=True`` to cut texts
    that are too long, which are refused otherwise, and ``deadline_ms``, within which all results must be there. All
    raise `RequestError` and, with a deadline, `DeadlineUnattainableError`.
    """

    def embed(
        self,
        texts: Text | Iterable[Text],
        prompt: str | None = "query",
        dimensions: int | None = None,
        *,
        normalize: bool | None = None,
        truncate: bool = False,
        deadline_ms: float | None = None,
    ) -> Floats:
        """Return embeddings, float32 ``[n, dimensions]``, of one text or several (texts or token ids).

        ``prompt`` names the kind of text: ``query`` or ``document``, or a prompt of the model's own; None: no prompt
        unless the model has a default one. ``dimensions`` cuts the embeddings of models that were trained for it;
        ``normalize`` overrides the model's own rule.
        """

        def make(some: Sequence[Text], first: int) -> EncodeTask[Floats]:
            return tasks.embed(
                self.model,
                some,
                ReadOptions(first=first, truncate=truncate),
                prompt=prompt,
                dimensions=dimensions,
                normalize=normalize,
            )

        parts = [make([], 0).finish([]), *self._parts(texts, make, deadline_ms)]
        return np.concatenate(parts)

    def classify(
        self, texts: Text | Iterable[Text], *, truncate: bool = False, deadline_ms: float | None = None
    ) -> list[Classification]:
        """Return each text's label and the scores of all labels."""

        def make(some: Sequence[Text], first: int) -> EncodeTask[list[Classification]]:
            return tasks.classify(self.model, some, ReadOptions(first=first, truncate=truncate))

        return [each for part in self._parts(texts, make, deadline_ms) for each in part]

    def tag(
        self,
        texts: str | Iterable[str],
        *,
        aggregation: Aggregation = "simple",
        truncate: bool = False,
        deadline_ms: float | None = None,
    ) -> list[list[TaggedSpan]]:
        """Return the labelled stretches of each text, with their places in characters.

        ``aggregation`` is ``none``, ``simple``, ``first``, ``average`` or ``max``, as in transformers' pipeline.
        """

        def make(some: Sequence[Text], first: int) -> EncodeTask[list[list[TaggedSpan]]]:
            options = ReadOptions(first=first, truncate=truncate)
            return tasks.tag(self.model, some, options, aggregation=aggregation)

        return [each for part in self._parts(texts, make, deadline_ms) for each in part]

    def fill_mask(
        self, texts: str | Iterable[str], *, top_k: int = 5, truncate: bool = False, deadline_ms: float | None = None
    ) -> list[list[list[MaskFill]]]:
        """Return the likeliest tokens for each mask of each text; a mask is written as the model writes it."""

        def make(some: Sequence[Text], first: int) -> EncodeTask[list[list[list[MaskFill]]]]:
            return tasks.fill_mask(self.model, some, ReadOptions(first=first, truncate=truncate), top_k=top_k)

        return [each for part in self._parts(texts, make, deadline_ms) for each in part]

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        top_n: int | None = None,
        *,
        truncate: bool = False,
        deadline_ms: float | None = None,
    ) -> list[RankedDocument]:
        """Return documents by how well they answer the query, best first, at most ``top_n``.

        One that is too long fails alone: it is at the end of the list, with its error.
        """
        options = ReadOptions("documents", truncate=truncate)
        return self._result(ranking.rerank(self.model, query, documents, options, top_n=top_n), deadline_ms)

    def score(
        self, pairs: Sequence[tuple[str, str]], *, truncate: bool = False, deadline_ms: float | None = None
    ) -> Floats:
        """Return how well each pair's second text answers the first, as the model gives it, float32 ``[n]``."""
        task = ranking.score(self.model, pairs, ReadOptions("pairs", truncate=truncate))
        return np.array([each.raw_score for each in self._result(task, deadline_ms)], np.float32)

    def close(self) -> None:
        """End what waits with an error and give the memory back. Closing twice does nothing."""
        self._close()

    def _result(self, task: EncodeTask[Result], deadline_ms: float | None) -> Result:
        """Run one task to its end."""
        return self._finished(self.submit(task, deadline_of(deadline_ms)), task)

    def _parts(
        self,
        texts: Text | Iterable[Text],
        make: Callable[[Sequence[Text], int], EncodeTask[Result]],
        deadline_ms: float | None,
    ) -> Iterator[Result]:
        """Run a task for stretches of the texts: the next one is read while one is computed.

        With a deadline all texts are one job, which is promised as a whole.
        """
        given = text_list(texts)
        size = JOB_TEXTS if deadline_ms is None else max(len(given), 1)
        running: deque[tuple[EncodeJob, EncodeTask[Result]]] = deque()
        try:
            for first in range(0, len(given), size):
                task = make(given[first : first + size], first)
                running.append((self.submit(task, deadline_of(deadline_ms)), task))
                if len(running) > JOBS_AHEAD:
                    yield self._finished(*running.popleft())
            while running:
                yield self._finished(*running.popleft())
        finally:
            for job, _ in running:
                job.cancel()

    @staticmethod
    def _finished(job: EncodeJob, task: EncodeTask[Result]) -> Result:
        """Wait for a job; leaving early, also by Ctrl-C, cancels it."""
        try:
            return task.finish(job.future.result())
        finally:
            job.cancel()


def deadline_of(deadline_ms: float | None) -> Deadline | None:
    """Return a deadline that is kept or refused. Raises `RequestError`."""
    return None if deadline_ms is None else Deadline(deadline_ms)
