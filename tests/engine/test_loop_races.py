"""Requests that come while the engine's thread ends: each ends too, or is turned away at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from miaotui.engine.loop import EngineLoop
from miaotui.engine.request import Request
from miaotui.errors import OverloadedError
from miaotui.types import SamplingParams
from tiny_engine import open_engine
from tiny_models import make_tiny_folder

SHORT = SamplingParams(max_tokens=3, ignore_eos=True)


def test_nobody_who_comes_at_the_last_moment_waits_for_ever(tmp_path: Path) -> None:
    model = make_tiny_folder(tmp_path, "llama")
    engine = open_engine(model, tmp_path)
    for round_ in range(12):
        told: list[Request] = []
        taken: list[Request] = []
        loop = EngineLoop(engine, lambda news, told=told: told.extend(news))

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
        assert {request.number for request in taken} <= _ended(told)
        assert engine.in_flight == 0


def _ended(told: Sequence[Request]) -> set[int]:
    return {request.number for request in told if request.is_over}
