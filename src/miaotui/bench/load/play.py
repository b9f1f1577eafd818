"""Playing loads: open (each request at its moment), closed (so many at a time) and all at once.

Owns the order and the clock of a load. Knows no server: a `Target` answers. Invariants: in an open load no request
waits for another; each request has one outcome, also when it was not sent because `MAX_OPEN` others were open.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from miaotui.bench.load.outcome import LEFT_OUT, RequestOutcome
from miaotui.bench.load.prompts import PlannedRequest
from miaotui.bench.load.target import LoadClock, Target

MAX_OPEN = 4096  # requests that wait for their answers


async def play_open(
    target: Target, planned: Sequence[PlannedRequest], most_open: int = MAX_OPEN
) -> list[RequestOutcome]:
    """Send each request when it is due, and wait for all answers."""
    outcomes: list[RequestOutcome] = []
    running: set[asyncio.Task[None]] = set()
    with _without_collector():
        clock = LoadClock()
        for each in planned:
            outcome = RequestOutcome(each.number, each.at_s, each.max_tokens)
            outcomes.append(outcome)
            await asyncio.sleep(max(each.at_s - clock(), 0.0))
            if len(running) >= most_open:
                outcome.ended(LEFT_OUT, clock(), f"{most_open:,} are open")
                continue
            task = asyncio.create_task(target.ask(each, outcome, clock))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
    return outcomes


async def play_closed(
    target: Target, planned: Iterable[PlannedRequest], streams: int, duration_s: float, least: int = 1
) -> list[RequestOutcome]:
    """Keep ``streams`` requests open: each is due when the one before it has ended.

    Ends with the answers to what was begun within ``duration_s``, but not before ``least`` requests.
    """
    outcomes = list[RequestOutcome]()
    coming: Iterator[PlannedRequest] = iter(planned)

    async def one_stream(clock: LoadClock) -> None:
        while clock() < duration_s or len(outcomes) < least:
            each = next(coming, None)
            if each is None:
                return
            outcome = RequestOutcome(each.number, clock(), each.max_tokens)
            outcomes.append(outcome)
            await target.ask(each, outcome, clock)
            await asyncio.sleep(0)

    with _without_collector():
        clock = LoadClock()
        await asyncio.gather(*(one_stream(clock) for _ in range(streams)))
    return outcomes


@contextmanager
def _without_collector() -> Iterator[None]:
    """Collect garbage before and after, so that no answer waits for it."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
