"""A pool that starts replicas when they are asked for and ends them when they are not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from miaotui.cluster.pool_loop import open_pool
from miaotui.cluster.routing.scaling import ScaleRange
from miaotui.cluster.transport.process_channel import ProcessMembers
from miaotui.engine.remote.loop import RemoteLoop
from miaotui.engine.request import RequestOptions
from miaotui.errors import DeadlineUnattainableError
from miaotui.types import Completion, Deadline, SamplingParams
from tiny_models import make_tiny_folder

pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {"threads": 1, "context": 512, "max_sequences": 4, "speculate": False}
PARAMS = SamplingParams(max_tokens=20, temperature=0.9, seed=3, ignore_eos=True)
IDLE_S = 1.0


def test_a_model_without_replicas_starts_one_and_ends_it_when_idle(tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "llama", max_position_embeddings=512)
    members = ProcessMembers("tiny", str(folder), 0, OPTIONS)
    pool, loop = open_pool("tiny", str(folder), members, 512, ScaleRange(0, 2, calm_s=IDLE_S, idle_s=IDLE_S))
    try:
        assert loop.healthy, "asleep is not ill"
        with pytest.raises(DeadlineUnattainableError, match="is being started") as refused:
            loop.submit([5] * 20, PARAMS, RequestOptions(deadline=Deadline(total_ms=500)))
        assert refused.value.predicted_ms > 500
        members.count = pool.wanted(members.count)
        assert members.count == 1, "one is started for whoever asks again"
        first = answer(loop)
        assert len(first.token_ids) == 20
        end_s = time.monotonic() + 30
        while members.channels and time.monotonic() < end_s:
            members.count = pool.wanted(members.count)
            time.sleep(0.05)
        assert not members.channels
        assert members.count == 0
        request = loop.submit([5] * 20, PARAMS)
        members.count = pool.wanted(members.count)
        while not request.is_over and time.monotonic() < end_s:
            time.sleep(0.01)
        assert request.completion().token_ids == first.token_ids
        loop.leave(request)
        assert loop.in_flight == 0
    finally:
        loop.close()


def answer(loop: RemoteLoop) -> Completion:
    request = loop.submit([5] * 20, PARAMS)
    end_s = time.monotonic() + 60
    while not request.is_over and time.monotonic() < end_s:
        time.sleep(0.01)
    loop.leave(request)
    return request.completion()
