"""A network that loses, doubles and garbles lines between a pool and its replicas: answers stay whole, none twice."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_replicas import STOPS, OneFault, ScriptedMembers, token_at

from miaotui.cluster import replicas
from miaotui.cluster.messages import Message
from miaotui.cluster.pool import Pool
from miaotui.cluster.pool_loop import open_pool
from miaotui.cluster.transport.lines import LineNumbers, line_of
from miaotui.engine.reading import readers
from miaotui.engine.remote.loop import RemoteLoop
from miaotui.engine.request import RequestOptions
from miaotui.hub.digest import model_digest
from miaotui.types import Completion, Deadline, SamplingParams
from tiny_models import make_tiny_folder

ANSWER = 20


class World:
    """A pool over two scripted replicas."""

    def __init__(self, folder: Path) -> None:
        self.members = ScriptedMembers(model_digest(folder))
        self.pool, self.loop = open_pool("tiny", str(folder), self.members, 256)
        assert self.pool.wait(2, 60), self.pool.refused

    def answers(self) -> list[Completion]:
        """Four answers side by side."""
        params = [SamplingParams(max_tokens=ANSWER, seed=seed, ignore_eos=True) for seed in range(4)]
        return readers.whole(self.loop, lambda: (self.loop.submit([5] * 20, each) for each in params))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = make_tiny_folder(tmp_path_factory.mktemp("tiny"), "llama", max_position_embeddings=256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replicas, "REPORTED_S", 120.0)  # a machine that is busy loses no replica
        found = World(folder)
        try:
            yield found
        finally:
            found.loop.close()


def piece_with(name: str) -> Callable[[bytes, Message], bool]:
    return lambda way, line: way == b"back" and name in line.get("piece", ())


def call_of(name: str) -> Callable[[bytes, Message], bool]:
    return lambda way, line: way == b"out" and line.get("call") == name


MATCHES: dict[str, Callable[[bytes, Message], bool]] = {
    "tokens": piece_with("tokens"),
    "end": lambda way, line: way == b"back" and line.get("piece", {}).get("end") == "stop",
    "answer": call_of("answer"),
    "report": call_of("report"),
}
CHANGES: dict[str, tuple[Callable[[bytes], list[bytes]], bool]] = {
    "lost": (lambda line: [], True),
    "doubled": (lambda line: [line, line], False),
    "garbled": (lambda line: [line[: len(line) // 2] + b"\n"], True),
    "no object": (lambda line: [b"[3]\n"], True),
}


@pytest.mark.parametrize(
    ("match", "change"),
    [
        (match, change)
        for match in MATCHES
        for change in CHANGES
        if (match, change) != ("report", "lost")  # noticed after five seconds, as that of a machine that vanished
    ],
)
def test_answers_are_whole_whatever_the_network_does(world: World, match: str, change: str) -> None:
    made, ends_connection = CHANGES[change]
    fault = OneFault(MATCHES[match], made)
    assert world.pool.wait(2, 60)
    before, names = world.pool.resumed, set(world.pool.replicas)
    for network in world.members.networks:
        network.fault = fault
    asked = sum(len(each.asked) for each in world.members.replicas)
    found = world.answers()
    end_s = time.monotonic() + 120
    while not fault.is_done and time.monotonic() < end_s:  # reports come twice a second
        time.sleep(0.01)
    assert fault.is_done
    for seed, each in enumerate(found):
        assert each.token_ids == tuple(token_at(seed, place) for place in range(STOPS.get(seed, ANSWER)))
        assert each.finish_reason == ("stop" if seed in STOPS else "length")
    if not ends_connection:
        assert world.pool.resumed == before
        assert sum(len(each.asked) for each in world.members.replicas) == asked + len(found)
        assert set(world.pool.replicas) == names
        assert_nothing_is_left(world.pool, world.loop)
        return
    if match != "report":
        assert world.pool.resumed > before
    while len(now := set(world.pool.replicas)) < 2 or now == names:  # it connects again, under a new name
        assert time.monotonic() < end_s
        time.sleep(0.01)
    assert_nothing_is_left(world.pool, world.loop)


def assert_nothing_is_left(pool: Pool, loop: RemoteLoop) -> None:
    end_s = time.monotonic() + 60
    while (loop.in_flight or pool._router.in_flight) and time.monotonic() < end_s:
        time.sleep(0.005)
    with pool._lock:
        assert loop.in_flight == loop.unread == pool._router.in_flight == 0


def test_lines_are_taken_once_and_in_order() -> None:
    one, other = LineNumbers(), LineNumbers()
    lines = [one.written({"number": number}) for number in range(4)]
    assert other.read(lines[0]) == {"line": 0, "number": 0}
    assert other.read(lines[0]) is None
    assert other.read(lines[1]) == {"line": 1, "number": 1}
    assert other.read(lines[0]) is None
    assert other.read(line_of({"call": "describe"})) == {"call": "describe"}, "of another version"
    wrong: list[Any] = [lines[3], b'{"line": "2"}', b"[]", b"{", b"\xff", b""]
    for line in wrong:
        with pytest.raises(ValueError, match=r"lost|object|Expecting|utf-8|decode"):
            other.read(line)
    assert other.read(lines[2]) == {"line": 2, "number": 2}


def test_a_clock_that_jumps_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock goes years forth and back between any two looks at it; deadlines are kept all the same."""
    assert world.pool.wait(2, 60)
    jumps = itertools.cycle((0.0, 4e8, -4e8))
    monkeypatch.setattr(time, "time", lambda: 1e9 + next(jumps))
    before, deadline = world.pool.resumed, RequestOptions(deadline=Deadline(total_ms=60_000))
    params = [SamplingParams(max_tokens=ANSWER, seed=seed, ignore_eos=True) for seed in range(3)]
    found = readers.whole(world.loop, lambda: (world.loop.submit([5] * 20, each, deadline) for each in params))
    for seed, each in enumerate(found):
        assert each.token_ids == tuple(token_at(seed, place) for place in range(ANSWER))
    spent = [asked.spent_ms for each in world.members.replicas for asked in each.asked[-3:]]
    assert all(0 <= spent_ms < 60_000 for spent_ms in spent)
    assert world.pool.resumed == before
    assert_nothing_is_left(world.pool, world.loop)
