"""Replicas of models that restore masked tokens: they promise, and an answer begins anew where one dies."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from miaotui.backends.options import EngineOptions
from miaotui.cluster.pool_loop import open_pool
from miaotui.cluster.transport.process_channel import ProcessMembers
from miaotui.engine.reading import readers
from miaotui.engine.request import RequestOptions
from miaotui.errors import DeadlineUnattainableError
from miaotui.runtime import ModelOptions, open_model
from miaotui.types import Deadline, SamplingParams
from tiny_masked import make_masked_folder

pytestmark = pytest.mark.slow

PARAMS = SamplingParams(max_tokens=200, temperature=0.9, seed=4, ignore_eos=True)


def test_masked_models_answer_and_survive_a_death(tmp_path: Path) -> None:
    folder = make_masked_folder(tmp_path, "bd3lm")
    engine = EngineOptions(threads=1, chunk_size=128)
    alone = open_model(folder, ModelOptions(engine, speculate=False))
    try:
        prompt, context = alone.model.tokenizer.encode("in the beginning"), alone.model.context
        (wanted,) = readers.whole(alone, lambda: iter([alone.submit(prompt, PARAMS)]))
    finally:
        alone.close()
    options = {"threads": 1, "chunk_size": 128, "speculate": False}
    members = ProcessMembers("masked", str(folder), 2, options)
    pool, loop = open_pool("masked", str(folder), members, context)
    try:
        assert pool.wait(2, 120), pool.refused
        assert loop.can_promise
        with pytest.raises(DeadlineUnattainableError, match="no replica is done"):
            loop.submit(prompt, PARAMS, RequestOptions(deadline=Deadline(total_ms=1)))
        ample = RequestOptions(deadline=Deadline(total_ms=60_000))
        (kept,) = readers.whole(loop, lambda: iter([loop.submit(prompt, PARAMS, ample)]))
        assert kept.token_ids == wanted.token_ids
        assert kept.promise is not None
        assert kept.promise.met is True
        request, killed = loop.submit(prompt, PARAMS), False
        end_s = time.monotonic() + 60
        while not request.is_over and time.monotonic() < end_s:
            if request.token_ids and not killed:
                with pool._lock:
                    busy = next(each.name for each in pool._router.replicas.values() if each.tickets)
                os.kill(members.channels[busy].process.pid, signal.SIGKILL)
                killed = True
            time.sleep(0.0005)
        assert killed, "the answer ended before it was seen to begin"
        assert request.completion().token_ids == wanted.token_ids
        assert request.completion().text == wanted.text
        loop.leave(request)
    finally:
        loop.close()
