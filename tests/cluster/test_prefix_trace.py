"""Conversations over three replicas: prompts are read where their beginnings are, and no replica is crowded."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miaotui.cluster.pool import Pool
from miaotui.cluster.pool_loop import open_pool
from miaotui.cluster.transport.process_channel import ProcessMembers
from miaotui.engine.reading import readers
from miaotui.engine.remote.loop import RemoteLoop
from miaotui.types import SamplingParams
from tiny_models import make_tiny_folder

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

OPTIONS: dict[str, Any] = {"threads": 1, "context": 1024, "max_sequences": 4, "speculate": False}
REPLICAS, TALKS, TURNS, ANSWER = 3, 9, 4, 24
PAGE = 16
ATTEMPTS = 3  # other work on the machine makes a replica slower, which is a reason to go elsewhere


def test_most_prefixes_are_found_and_requests_are_shared_out(tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "llama", max_position_embeddings=1024)
    pool, loop = open_pool("tiny", str(folder), ProcessMembers("tiny", str(folder), REPLICAS, OPTIONS), 1024)
    try:
        assert pool.wait(REPLICAS, 120), pool.refused
        for attempt in range(ATTEMPTS):
            trace = Trace(pool, loop)
            numbers = range(attempt * TALKS, (attempt + 1) * TALKS)
            talks = [threading.Thread(target=trace.talk, args=(number,)) for number in numbers]
            for talk in talks:
                talk.start()
            for talk in talks:
                talk.join(120)
            if trace.found >= 0.95 * trace.possible and trace.gap <= 2:
                break
        assert trace.possible >= TALKS * (TURNS - 1) * 3 * PAGE
        assert trace.found >= 0.95 * trace.possible
        assert trace.gap <= 2
        assert loop.in_flight == 0
    finally:
        loop.close()


class Trace:
    """Conversations with one system prompt; what each turn found of the turns before, and the widest gap."""

    def __init__(self, pool: Pool, loop: RemoteLoop) -> None:
        self._pool, self._loop, self._lock = pool, loop, threading.Lock()
        self._system = list(np.random.default_rng(0).integers(0, 320, 3 * PAGE))
        self.possible = self.found = self.gap = 0

    def talk(self, number: int) -> None:
        random = np.random.default_rng(number + 1)
        known, computed = [int(token) for token in self._system], 0
        for turn in range(TURNS):
            prompt = known + [int(token) for token in random.integers(0, 320, 40)]
            params = SamplingParams(max_tokens=ANSWER, temperature=1.0, seed=number, ignore_eos=True)
            (answer,) = readers.whole(self._loop, lambda p=prompt, s=params: iter([self._submitted(p, s)]))  # type: ignore[misc]
            with self._lock:
                if turn:
                    self.possible += computed // PAGE * PAGE
                    self.found += min(answer.cached_tokens, computed // PAGE * PAGE)
            known = [*prompt, *answer.token_ids]
            computed = len(known) - 1  # the last token was chosen, and not computed

    def _submitted(self, prompt: list[int], params: SamplingParams) -> Any:
        with self._lock:  # one after the other: what is read below belongs to this one
            request = self._loop.submit(prompt, params)
            counts = [int(each["in_flight"]) for each in self._pool.replicas.values()]
            self.gap = max(self.gap, max(counts) - min(counts))
        return request
