"""One HTTP request for an encoder, between its parsed body and its answer.

Owns what all wire forms share: bounds on inputs, the choice of the encoder, its deadline, its account, and leaving when
the client does. Knows no wire form. Invariants: how many inputs there are is checked before they are read, and their
tokens before anything is computed; every job of a request that is over has ended.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol

from starlette.requests import Request as HttpRequest

from miaotui.async_encoder import AsyncEncoder
from miaotui.encoders.tasks import EncodeTask
from miaotui.engine.encoding.job import EncodeJob
from miaotui.engine.encoding.loaded import Ability, LoadedEncoder
from miaotui.engine.jobs.job import asked_of
from miaotui.errors import DeadlineUnattainableError, RefusedError
from miaotui.serve.encoders.registry import EncoderEntry
from miaotui.serve.http.bodies import Result, unless_gone
from miaotui.serve.http.errors import bad_value
from miaotui.serve.middleware.access import received, services_of
from miaotui.serve.wire.params import deadline_for
from miaotui.types import Deadline, OnLate

Make = Callable[[LoadedEncoder], EncodeTask[Result]]
INPUT_FIELDS = ("input", "inputs", "documents", "texts", "text_2", "data_2")  # where a request has most of its texts
MAX_INPUTS = 2048  # texts, documents or pairs of one request
MAX_INPUT_TOKENS = 1 << 18  # of all of them
MAX_ANSWER_NUMBERS = 1 << 23  # of vectors and scores: in JSON some 160 MB


class DeadlineFields(Protocol):
    """Fields of a request that may have a deadline."""

    deadline_ms: float | None
    on_late: OnLate | None


@dataclass(frozen=True)
class EncoderAnswer(Generic[Result]):
    """The result of a request, and what an answer tells beside it. ``dropped``: tokens cut off each input."""

    id: str
    created_s: int
    model: str
    result: Result
    n_tokens: int
    dropped: Sequence[int]
    job: EncodeJob

    @property
    def usage(self) -> dict[str, int]:
        """Return the tokens that were computed."""
        return {"prompt_tokens": self.n_tokens, "total_tokens": self.n_tokens}

    @property
    def deadline(self) -> dict[str, Any]:
        """Return how it stood to its deadline, milliseconds from the request's last byte."""
        promise = self.job.promise
        return {
            "asked_ms": promise.asked_ms,
            "predicted_ms": round(promise.predicted_ms, 1),
            "took_ms": round((time.perf_counter() - self.job.arrived_s) * 1e3, 1),
            "met": promise.met,
        }


def find_encoder(http: HttpRequest, name: str | None, *abilities: Ability) -> EncoderEntry:
    """Return the encoder that a request means, see `EncoderRegistry.find`. Raises `ApiError` (404, 400)."""
    return services_of(http).encoders.find(name, *abilities)


def check_count(field: str, count: int, least: int = 1) -> None:
    """Raise `ApiError` (400) for too many inputs, or none."""
    if not least <= count <= MAX_INPUTS:
        raise bad_value(
            field, f"must hold {least} to {MAX_INPUTS:,} items, not {count:,}: share them out over requests"
        )


async def run_task(
    http: HttpRequest, entry: EncoderEntry, body: DeadlineFields, inputs: Sequence[Any], make: Make[Result]
) -> EncoderAnswer[Result]:
    """Make a task of ``inputs``, run it, and return its result with what belongs to it.

    Raises `ClientGoneError` with the job cancelled, `RefusedError`, and `ApiError` or `RequestError` for inputs that
    cannot be taken.
    """
    deadline = deadline_for(body.deadline_ms, body.on_late, http.headers, services_of(http).settings.deadline_ms)
    received(http).drop_body()
    field = next((name for name in INPUT_FIELDS if getattr(body, name, None) is not None), INPUT_FIELDS[0])
    return await unless_gone(http.receive, _run(http, entry, inputs, make, deadline, field))


async def _run(
    http: HttpRequest,
    entry: EncoderEntry,
    inputs: Sequence[Any],
    make: Make[Result],
    deadline: Deadline | None,
    field: str,
) -> EncoderAnswer[Result]:
    services = services_of(http)
    try:
        _require_time_to_load(entry, deadline, received(http).arrived_s)
    except DeadlineUnattainableError as error:
        services.encoders.preload(entry)
        services.operations.jobs.refused(entry.name, error)
        raise
    async with services.encoders.use(entry) as encoder:
        task = await encoder.read(inputs, lambda: _bounded(make(encoder.model), field))
        job = _submit(http, entry, encoder, task, deadline)
        with services.operations.jobs.tracking(entry.name, job):
            result = task.finish(await encoder.wait(job))
    return EncoderAnswer(secrets.token_hex(12), int(time.time()), entry.name, result, task.n_tokens, task.dropped, job)


def _require_time_to_load(entry: EncoderEntry, deadline: Deadline | None, arrived_s: float) -> None:
    """Raise `DeadlineUnattainableError` where the model must be loaded first and the deadline leaves no time for it."""
    asked_ms = None if deadline is None or deadline.on_late == "best_effort" else asked_of(deadline)
    if asked_ms is None or not entry.wait_s:
        return
    predicted_ms = (time.perf_counter() - arrived_s + entry.wait_s) * 1e3
    if predicted_ms > asked_ms:
        raise DeadlineUnattainableError(
            f"the model {entry.name} is being loaded, which takes about {predicted_ms:.0f} ms, and this request allows "
            f"{asked_ms:.0f} ms: try again later",
            retry_after_s=entry.wait_s,
            predicted_ms=predicted_ms,
        )


def _submit(
    http: HttpRequest, entry: EncoderEntry, encoder: AsyncEncoder, task: EncodeTask[Any], deadline: Deadline | None
) -> EncodeJob:
    try:
        return encoder.submit(task, deadline, received(http).arrived_s)
    except RefusedError as error:
        services_of(http).operations.jobs.refused(entry.name, error)
        raise


def _bounded(task: EncodeTask[Result], field: str) -> EncodeTask[Result]:
    """Return the task. Raises `ApiError` (400) for more tokens, or numbers of an answer, than one request may have."""
    if task.n_tokens > MAX_INPUT_TOKENS:
        raise bad_value(
            field,
            f"all inputs have {task.n_tokens:,} tokens, and a request may have {MAX_INPUT_TOKENS:,}: "
            "share them out over several requests",
        )
    if task.n_numbers > MAX_ANSWER_NUMBERS:
        raise bad_value(
            field,
            f"the answer would have {task.n_numbers:,} numbers, and may have {MAX_ANSWER_NUMBERS:,}: "
            "share the inputs out over several requests",
        )
    return task
