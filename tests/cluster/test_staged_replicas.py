"""Replicas whose layers several processes compute: one of these dies, and the answer is as if none had."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from miaotui.backends.options import EngineOptions
from miaotui.cluster.cluster_file import ClusterFile
from miaotui.cluster.pool_loop import open_pool
from miaotui.cluster.transport.process_channel import ProcessMembers
from miaotui.engine.reading import readers
from miaotui.errors import RequestError
from miaotui.runtime import ModelOptions, open_model
from miaotui.types import SamplingParams
from tiny_models import make_tiny_folder

OPTIONS: dict[str, Any] = {"threads": 1, "context": 2048, "max_sequences": 4, "speculate": False, "stages": 2}
PARAMS = SamplingParams(max_tokens=900, temperature=0.9, seed=11, ignore_eos=True)
PROMPT = [5, 6, 7, 8] * 6
MOST_RUNS = 6


def stages_of(process: int) -> list[int]:
    """The children of a replica that compute layers."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        children = (task / "children").read_text().split()
        found += [int(child) for child in children if b"stages.worker" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
def test_an_answer_goes_on_elsewhere_when_a_stage_is_killed(tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "llama", max_position_embeddings=2048)
    engine = EngineOptions(threads=1, context=2048, max_sequences=4)
    with closing(open_model(folder, ModelOptions(engine, speculate=False))) as alone:
        (wanted,) = readers.whole(alone, lambda: iter([alone.submit(PROMPT, PARAMS)]))
    members = ProcessMembers("tiny", str(folder), 2, OPTIONS)
    pool, loop = open_pool("tiny", str(folder), members, 2048)
    with closing(loop):
        assert pool.wait(2, 120), pool.refused
        for _ in range(MOST_RUNS):  # on a busy machine an answer may have ended before it is seen to have begun
            request, killed = loop.submit(PROMPT, PARAMS), False
            while not request.is_over:
                time.sleep(0.0005)
                if len(request.token_ids) > 20 and not killed:
                    with pool._lock:
                        busy = max(pool._router.replicas.values(), key=lambda each: len(each.tickets))
                    for child in stages_of(members.channels[busy.name].process.pid) if busy.tickets else ():
                        os.kill(child, signal.SIGKILL)
                        killed = True
            assert request.completion().token_ids == wanted.token_ids
            assert request.completion().text == wanted.text
            loop.leave(request)
            assert pool.wait(2, 120)
            if pool.resumed:
                break
        assert pool.resumed


def test_the_cluster_file_names_stages() -> None:
    pools = ClusterFile.of({"models": {"a": {"model": "m", "stages": 2}}}).pools
    assert pools[0].options == {"stages": 2}
    with pytest.raises(RequestError, match="stages must be a whole number"):
        ClusterFile.of({"models": {"a": {"model": "m", "stages": 0}}})
