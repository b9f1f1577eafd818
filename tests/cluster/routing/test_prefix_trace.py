"""Conversations over three replicas: prompts are read where their beginnings are, and no replica is crowded.

Turns come in rounds, and replicas publish fixed costs, so that what is found is the routing's doing: how fast a busy
machine computes changes nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miaotui.cluster.messages import Message
from miaotui.cluster.pool import Pool
from miaotui.cluster.pool_loop import open_pool
from miaotui.cluster.routing.router import EQUAL_S
from miaotui.cluster.transport.channel import Channel
from miaotui.cluster.transport.process_channel import ProcessMembers
from miaotui.engine.reading import readers
from miaotui.engine.remote.loop import RemoteLoop
from miaotui.types import SamplingParams
from tiny_models import make_tiny_folder

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

OPTIONS: dict[str, Any] = {"threads": 1, "context": 1024, "max_sequences": 4, "speculate": False}
REPLICAS, TALKS, ROUNDS, ANSWER = 3, 9, 8, 24
PAGE = 16
COST = {"read_s": 1e-4, "answer_s": [1e-3, 1.1e-3, 1.3e-3, 2e-3, 4e-3], "allowance": 1.2}


class SteadyChannel:
    """A way to a replica (see `Channel`) whose reports name fixed costs."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def describe(self) -> Message:
        return await self._channel.describe()

    async def report(self) -> Message:
        found = await self._channel.report()
        return {**found, "cost": {**found["cost"], **COST}}

    async def adapt(self, message: Message) -> Message:
        return await self._channel.adapt(message)

    def abandon(self) -> None:
        self._channel.abandon()

    async def answer(self, message: Message) -> AsyncGenerator[Message, None]:
        async with aclosing(self._channel.answer(message)) as pieces:
            async for piece in pieces:
                yield piece


class SteadyMembers:
    """Members whose replicas publish fixed costs."""

    def __init__(self, members: ProcessMembers) -> None:
        self._members = members
        self._ways: dict[str, SteadyChannel] = {}

    async def current(self) -> Mapping[str, SteadyChannel]:
        found = await self._members.current()
        self._ways = {name: self._ways.get(name) or SteadyChannel(each) for name, each in found.items()}
        return dict(self._ways)

    async def close(self) -> None:
        await self._members.close()


@pytest.mark.parametrize(("level_s", "least_found", "most_gap"), [(EQUAL_S, 0.95, 3), (math.inf, 0.95, 2)])
def test_prefixes_are_found_and_requests_shared_out(
    tmp_path: Path, level_s: float, least_found: float, most_gap: int
) -> None:
    """As it is routed, and with numbers of requests levelled whatever that costs."""
    folder = make_tiny_folder(tmp_path, "llama", max_position_embeddings=1024)
    members = SteadyMembers(ProcessMembers("tiny", str(folder), REPLICAS, OPTIONS))
    pool, loop = open_pool("tiny", str(folder), members, 1024)
    try:
        assert pool.wait(REPLICAS, 120), pool.refused
        pool._router.level_s = level_s
        trace = Trace(pool, loop)
        random = np.random.default_rng(7)
        for _ in range(ROUNDS):
            trace.turns([int(each) for each in random.permutation(TALKS)[: random.integers(4, TALKS + 1)]])
        assert trace.possible >= TALKS * 3 * PAGE
        print(json.dumps({"level_s": level_s, "found": trace.found / trace.possible, "gap": trace.gap}))
        assert trace.found >= least_found * trace.possible
        assert trace.gap <= most_gap
        assert loop.in_flight == 0
    finally:
        loop.close()


class Trace:
    """Conversations with one system prompt; what each turn found of the turns before, and the widest gap."""

    def __init__(self, pool: Pool, loop: RemoteLoop) -> None:
        self._pool, self._loop = pool, loop
        system = [int(token) for token in np.random.default_rng(0).integers(0, 320, 3 * PAGE)]
        self._known = {number: list(system) for number in range(TALKS)}
        self._computed = dict.fromkeys(range(TALKS), 0)
        self._random = np.random.default_rng(1)
        self.possible = self.found = self.gap = 0

    def turns(self, talks: list[int]) -> None:
        """Have these conversations take one turn each, all under way together."""
        prompts = {each: [*self._known[each], *map(int, self._random.integers(0, 320, 40))] for each in talks}
        answers = readers.whole(self._loop, lambda: (self._submitted(prompts[each], each) for each in talks))
        for talk, answer in zip(talks, answers, strict=True):
            before = self._computed[talk] // PAGE * PAGE
            self.possible += before
            self.found += min(answer.cached_tokens, before)
            self._known[talk] = [*prompts[talk], *answer.token_ids]
            self._computed[talk] = len(self._known[talk]) - 1  # the last token was chosen, and not computed

    def _submitted(self, prompt: list[int], seed: int) -> Any:
        params = SamplingParams(max_tokens=ANSWER, temperature=1.0, seed=seed, ignore_eos=True)
        request = self._loop.submit(prompt, params)
        counts = [int(each["in_flight"]) for each in self._pool.replicas.values()]
        self.gap = max(self.gap, max(counts) - min(counts))
        return request
