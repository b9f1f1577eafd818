"""Requests that come while the engine's thread ends: each ends too, or is turned away at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from miaotui.engine.engine import Engine
from miaotui.engine.loop import EngineLoop
from miaotui.engine.reading import readers
from miaotui.engine.reading.readers import DeltaStream, Readers, whole
from miaotui.engine.request import Request
from miaotui.errors import OverloadedError
from miaotui.schedule.plan import Plan
from miaotui.schedule.promises.cost import CostModel, CostRates
from miaotui.types import SamplingParams
from tiny_engine import open_loop
from tiny_models import make_tiny_folder

pytestmark = pytest.mark.usefixtures("backend")

SHORT = SamplingParams(max_tokens=3, ignore_eos=True)
RATES = CostRates(((1, 1e-3), (256, 1e-2)), 0.0, 0.0)


class Told(Readers):
    """The numbers of requests that were told of as over."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: set[int] = set()

    def tell(self, requests: Sequence[Request]) -> None:
        self.ended |= {request.number for request in requests if request.is_over}


def test_nobody_who_comes_at_the_last_moment_waits_for_ever(tmp_path: Path) -> None:
    model = make_tiny_folder(tmp_path, "llama")
    for round_ in range(12):
        taken: list[Request] = []
        told = Told()
        loop = open_loop(model, tmp_path, told, CostModel(RATES))

        def submit(loop: EngineLoop = loop, taken: list[Request] = taken) -> None:
            while True:
                try:
                    taken.append(loop.submit([1, 2, 3], SHORT))
                except OverloadedError as error:
                    if "stopping" in str(error):
                        return

        clients = [threading.Thread(target=submit) for _ in range(3)]
        for client in clients:
            client.start()
        time.sleep(0.002 * round_)
        loop.close()
        for client in clients:
            client.join(10)
            assert not client.is_alive()
        assert all(request.is_over for request in taken)
        assert {request.number for request in taken} <= told.ended
        assert loop.engine.in_flight == 0


def test_an_answer_that_was_read_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader may see the end of an answer before the step that brought it is over."""
    retire = Engine._retire

    def late(self: Engine, plan: Plan) -> None:
        time.sleep(0.02)
        retire(self, plan)

    monkeypatch.setattr(Engine, "_retire", late)
    loop = open_loop(make_tiny_folder(tmp_path, "llama"), tmp_path, Readers(), CostModel(RATES))

    def is_clean() -> bool:
        return loop.in_flight == 0 and loop.engine.scheduler.stats().pages_used == 0 and len(loop.admission) == 0

    async def in_tasks_() -> None:
        await readers.await_whole(loop, [loop.submit([1, 2, 3], SHORT)])
        assert is_clean()
        async for _ in readers.pieces_of(loop, [loop.submit([1, 2, 3], SHORT)]):
            pass
        assert is_clean()

    try:
        whole(loop, lambda: iter([loop.submit([1, 2, 3], SHORT)]))
        assert is_clean()
        for _ in DeltaStream(loop, lambda: loop.submit([1, 2, 3], SHORT)):
            pass
        assert is_clean()
        asyncio.run(in_tasks_())
    finally:
        loop.close()
