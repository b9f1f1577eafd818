"""Batches over several machines: lines go through Ray Data to actors, each with models of its own.

Owns the way of lines and answers. Knows no wire form. Invariants: an answer is in the file as soon as it is here, so a
run that is ended goes on where it was; lines of an actor that died are asked again by Ray, and an answer is kept once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from itertools import islice
from typing import Any

from miaotui.cluster.on_ray.run import connect, start_here
from miaotui.errors import EngineError, RequestError
from miaotui.libraries import missing
from miaotui.serve.batch.answer import answer_lines
from miaotui.serve.batch.lines import BatchFault, BatchLine
from miaotui.serve.batch.open import open_batch

LINES_A_CALL = 16  # that an actor answers together, and that are lost with it
LINES_A_RUN = 50_000  # that the driver holds in memory


class LineModel:
    """The models of one actor, and the event loop in which they answer."""

    def __init__(self, models: Mapping[str, str], threads: int | None) -> None:
        self._events = asyncio.new_event_loop()
        self._server = self._events.run_until_complete(_opened(models, threads))

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[str]]:
        """Return the answers of some lines, as JSON texts."""
        lines = [BatchLine(**json.loads(text)) for text in rows["line"]]
        return {"answer": self._events.run_until_complete(self._answers(lines))}

    async def _answers(self, lines: list[BatchLine]) -> list[str]:
        async with aclosing(answer_lines(self._server.app, iter(lines), len(lines))) as answers:
            return [json.dumps(each) async for each in answers]


async def _opened(models: Mapping[str, str], threads: int | None) -> Any:
    return open_batch(models, threads)


def answers_of(
    lines: Iterator[BatchLine], models: Mapping[str, str], replicas: int, cpus: float, address: str | None
) -> Iterator[dict[str, Any]]:
    """Yield the answers of lines in whatever order they come, from ``replicas`` actors of ``cpus`` each.

    ``address`` is of a running Ray; None: one that is started here and ends with this process. Raises `RequestError`,
    and `EngineError` where Ray cannot go on.
    """
    data = _ray_data(address, replicas * cpus)
    from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError  # noqa: PLC0415  (an extra)

    try:
        yield from _answered(data, lines, models, replicas, cpus)
    except RayError as error:
        told = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
        reason = f"{type(error).__name__}: {told:.300}"
        if isinstance(error, ObjectStoreFullError | OutOfDiskError):
            reason = "its object store and the disk behind it have no room"
        raise EngineError(
            f"Ray cannot go on with the batch: {reason}. The answers that came are in the file: see to what is named, "
            "and start the same command again"
        ) from error


def _answered(
    data: Any, lines: Iterator[BatchLine], models: Mapping[str, str], replicas: int, cpus: float
) -> Iterator[dict[str, Any]]:
    while some := [{"line": json.dumps(vars(each))} for each in islice(lines, LINES_A_RUN)]:
        answered = data.from_items(some).map_batches(
            LineModel,
            fn_constructor_args=(dict(models), max(int(cpus), 1)),
            batch_size=LINES_A_CALL,
            compute=data.ActorPoolStrategy(size=replicas),
            num_cpus=cpus,
        )
        for row in answered.iter_rows():
            yield json.loads(row["answer"])


def without_faults(lines: Iterator[BatchLine | BatchFault], take: Any) -> Iterator[BatchLine]:
    """Yield the requests among lines; faults go to ``take``."""
    for line in lines:
        if isinstance(line, BatchFault):
            take(line)
        else:
            yield line


def _ray_data(address: str | None, cpus: float) -> Any:
    """Return Ray Data, connected. Raises `RequestError` and `MissingLibraryError`."""
    if address is None:
        start_here(cpus)
    else:
        connect(address)
    try:
        import pyarrow  # noqa: F401, PLC0415  (Ray Data needs it, and says so late)
        from ray import data  # noqa: PLC0415  (an extra)
    except ModuleNotFoundError as error:
        raise missing(error.name or "pyarrow") from error
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return data


def require_counts(replicas: int, cpus: float) -> None:
    """Raise `RequestError` for numbers that are none."""
    if not 1 <= replicas <= 1000 or not 0 < cpus <= 4096:
        raise RequestError("--replicas is 1 to 1000, and --cpus above 0 up to 4096")
