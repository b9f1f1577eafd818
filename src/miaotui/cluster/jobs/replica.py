"""A model that does jobs as a replica: an encoder, whose jobs are texts and whose results are numbers.

Owns the model and the jobs that came in. Knows no router and no Ray. Invariants: a job that is not read any more is
cancelled; a report costs no pass; a result's bytes are those of the same model in the process that asks.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

from miaotui.backends.encoder_backend import TextRows
from miaotui.backends.options import EncoderOptions
from miaotui.cluster.jobs.arrays import arrays_piece
from miaotui.cluster.jobs.reports import description, report
from miaotui.cluster.messages import VERSION, Message, error_piece
from miaotui.encoders.runtime import RunningEncoder, run_encoder
from miaotui.engine.encoding.job import Reduction
from miaotui.engine.encoding.reading import StateReading
from miaotui.engine.jobs.job import PromisedJob
from miaotui.engine.jobs.loop import JobLoop
from miaotui.errors import MiaotuiError, RequestError
from miaotui.hub.digest import model_digest
from miaotui.hub.resolve import resolve
from miaotui.types import Deadline

READ_ROWS = 128  # of a pass whose time is published
MOST_TEXTS, MOST_TOKENS = 1 << 16, 1 << 24  # of one message
PIECE_BYTES = 1 << 22  # of results, after which a piece is sent


class JobReplica(ABC):
    """A model that does jobs. A subclass knows what they are of."""

    def __init__(self, digest: str, loop: JobLoop[Any]) -> None:
        self.digest = digest
        self._loop = loop

    @property
    def healthy(self) -> bool:
        """Return True: a pass that failed fails its jobs, and the loop goes on."""
        return True

    @property
    def in_flight(self) -> int:
        """Return the jobs that have not ended."""
        return self._loop.in_flight

    @property
    @abstractmethod
    def _computes(self) -> list[object]:
        """Return what decides the bytes of results, besides the files."""

    @property
    @abstractmethod
    def _max_tokens(self) -> int:
        """Return tokens of the longest input."""

    @property
    @abstractmethod
    def _token_s(self) -> float:
        """Return the seconds of one token of a job, at the present pace."""

    @property
    @abstractmethod
    def _waiting_tokens(self) -> int:
        """Return tokens that no pass has begun to compute."""

    @abstractmethod
    def _job(self, message: Mapping[str, Any], deadline: Deadline | None, arrived_s: float) -> PromisedJob:
        """Submit the job of a message. Raises `RequestError` and `RefusedError`."""

    @abstractmethod
    def _piece(self, results: Sequence[Any]) -> Message:
        """Return results as JSON values."""

    @abstractmethod
    def _bytes(self, result: Any) -> int:
        """Return about how many bytes a result has."""

    def describe(self) -> Message:
        """Return what decides if this replica may join a pool, and its place."""
        return description(self.digest, self._computes, promises=True, context=self._max_tokens)

    def report(self) -> Message:
        """Return what this replica could promise now: the cost of a token, and all its work."""
        cost = self._loop.cost
        return report(self._token_s, self.in_flight, self._waiting_tokens, margin=cost.margin, pace=cost.pace)

    async def adapt(self, message: Mapping[str, Any]) -> Message:
        """Return the error of a model that takes no adapters."""
        return error_piece(RequestError("this model takes no adapters"))

    async def answer(self, message: Mapping[str, Any]) -> AsyncGenerator[Message, None]:
        """Yield the results of one job in pieces; the last one has its end, or is its error."""
        job: PromisedJob | None = None
        try:
            if message.get("version") != VERSION:
                raise RequestError(
                    f"the message has version {message.get('version')!r} and this replica reads version {VERSION}: "
                    "run one version of miaotui in the whole cluster"
                )
            deadline, spent_s, skip = _head_of(message)
            job = self._job(message, deadline, time.perf_counter() - spent_s)
            results, at = (await asyncio.wrap_future(job.future))[skip:], skip
            while results:
                count, size = 0, 0
                while count < len(results) and (not count or size + self._bytes(results[count]) <= PIECE_BYTES):
                    size += self._bytes(results[count])
                    count += 1
                piece, results = {**self._piece(results[:count]), "at": at}, results[count:]
                at += count
                yield piece if results else {**piece, "end": "stop"}
                if not results:
                    return
            yield {"end": "stop"}
        except MiaotuiError as error:
            yield error_piece(error)
        finally:
            if job is not None:
                job.cancel()

    def close(self) -> None:
        """Cancel everything and give the memory back."""
        self._loop.close()


class EncoderReplica(JobReplica):
    """An encoder as a replica: texts as token ids come in, values of their states go out."""

    def __init__(self, running: RunningEncoder, digest: str) -> None:
        super().__init__(digest, running.loop)
        self._model, self._encoding = running.model, running.loop

    @staticmethod
    def open(model: str, options: Mapping[str, Any]) -> EncoderReplica:
        """Open the encoder that a cluster file names. Raises a `MiaotuiError`."""
        path = Path(resolve(model))
        running = run_encoder(path, EncoderOptions(**options))
        try:
            return EncoderReplica(running, model_digest(path))
        except BaseException:
            running.loop.close()
            raise

    @property
    def _computes(self) -> list[object]:
        found = self._model.backend.identity
        return [found.name, sorted(found.formats), "", found.arithmetic]

    @property
    def _max_tokens(self) -> int:
        return self._model.max_tokens

    @property
    def _token_s(self) -> float:
        return self._loop.cost.seconds(READ_ROWS, 0, READ_ROWS * READ_ROWS) / READ_ROWS

    @property
    def _waiting_tokens(self) -> int:
        return self._loop.admission.queue.tokens

    def _job(self, message: Mapping[str, Any], deadline: Deadline | None, arrived_s: float) -> PromisedJob:
        texts = _texts(message)
        reading = StateReading.read(message["reading"], len(texts))
        for text, rows in zip(texts, reading.rows, strict=False):
            if any(not 0 <= row < len(text.tokens) for row in rows):
                raise RequestError("the message of a job is damaged: its reading names rows that there are not")
        return self._encoding.submit(texts, Reduction.of(self._model, reading.kind, reading), deadline, arrived_s)

    def _piece(self, results: Sequence[Any]) -> Message:
        return arrays_piece(results)

    def _bytes(self, result: Any) -> int:
        return int(result.nbytes)


def _head_of(message: Mapping[str, Any]) -> tuple[Deadline | None, float, int]:
    """Return deadline, seconds spent, and the number of results that are not wanted again."""
    try:
        deadline, spent_ms, skip = message["deadline"], float(message["spent_ms"]), int(message["skip"])
        return (None if deadline is None else Deadline(**deadline)), max(spent_ms, 0.0) / 1e3, max(skip, 0)
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"the message of a job is damaged: {type(error).__name__}: {error}") from error


def _texts(message: Mapping[str, Any]) -> list[TextRows]:
    try:
        found = [TextRows(_ids(tokens), _ids(types)) for tokens, types in message["texts"]]
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"the message of a job is damaged: {type(error).__name__}: {error}") from error
    if len(found) > MOST_TEXTS or sum(len(each.tokens) for each in found) > MOST_TOKENS:
        raise RequestError(f"a job has at most {MOST_TEXTS:,} texts of {MOST_TOKENS:,} tokens: make several of it")
    return found


def _ids(values: Any) -> list[int]:
    if not isinstance(values, list) or not all(type(each) is int for each in values):
        raise TypeError("expected token ids")
    return values
