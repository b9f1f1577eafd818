"""Answers of replicas in other processes that are killed, beside those of one engine in this one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from adapter_files import write_adapter
from miaotui.backends.options import EngineOptions
from miaotui.cluster.pool import Pool
from miaotui.cluster.pool_loop import open_pool
from miaotui.cluster.transport.process_channel import ProcessMembers
from miaotui.engine.grammar.constraint import Grammars
from miaotui.engine.grammar.source import from_schema
from miaotui.engine.reading import readers
from miaotui.engine.remote.loop import RemoteLoop
from miaotui.engine.request import RequestOptions
from miaotui.errors import DeadlineUnattainableError, MiaotuiError, OverloadedError, RefusedError, RequestError
from miaotui.runtime import ModelOptions, open_model
from miaotui.types import Completion, Deadline, SamplingParams
from tiny_models import make_tiny_folder

pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {"threads": 1, "context": 2048, "max_sequences": 4, "speculate": False}
PROMPTS = ([5, 6, 7, 8] * 6, list(range(10, 60)), [3] * 17)
PARAMS = (
    SamplingParams(max_tokens=700, temperature=0.9, seed=11, ignore_eos=True),
    SamplingParams(max_tokens=600, temperature=1.0, seed=5, top_k=20, presence_penalty=0.7, ignore_eos=True),
    SamplingParams(max_tokens=500, temperature=0.8, seed=9, logprobs=2, min_tokens=490),
)
MOST_RUNS = 6
Cluster = tuple[Pool, RemoteLoop, ProcessMembers, Path]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = make_tiny_folder(tmp_path_factory.mktemp("tiny"), "llama", max_position_embeddings=2048)
    members = ProcessMembers("tiny", str(folder), 2, OPTIONS)
    pool, loop = open_pool("tiny", str(folder), members, 2048)
    try:
        assert pool.wait(2, 120), pool.refused
        yield pool, loop, members, folder
    finally:
        loop.close()


def alone(folder: Path) -> list[Completion]:
    """The answers of an engine in this process."""
    engine = EngineOptions(threads=1, context=2048, max_sequences=4)
    loop = open_model(folder, ModelOptions(engine, speculate=False))
    try:
        pairs = zip(PROMPTS, PARAMS, strict=True)
        return readers.whole(loop, lambda: (loop.submit(prompt, params) for prompt, params in pairs))
    finally:
        loop.close()


async def streamed(loop: RemoteLoop, kill: Any) -> list[tuple[str, tuple[int, ...], Completion]]:
    """All answers, streamed together: text and tokens of the pieces, and the whole; ``kill`` sees each step."""
    requests = [loop.submit(prompt, params) for prompt, params in zip(PROMPTS, PARAMS, strict=True)]
    found: list[Any] = [["", (), None] for _ in requests]
    async with aclosing(readers.pieces_of(loop, requests)) as steps:
        async for pieces in steps:
            for index, delta in pieces:
                found[index][0] += delta.text
                found[index][1] += delta.token_ids
                assert found[index][2] is None, "no piece follows the whole answer"
                found[index][2] = delta.completion
            kill(found)
    return [(text, ids, whole) for text, ids, whole in found]


def test_a_stream_goes_on_without_seam_when_its_replica_is_killed(cluster: Cluster) -> None:
    pool, loop, members, folder = cluster
    wanted, killed, before = alone(folder), False, pool.resumed

    def kill(found: list[Any]) -> None:
        nonlocal killed
        if not killed and len(found[0][1]) > 60:
            killed = kill_busiest(pool, members)

    for _ in range(MOST_RUNS):  # on a busy machine answers may have ended before one is seen to have begun
        killed = False
        for (text, ids, whole), right in zip(asyncio.run(streamed(loop, kill)), wanted, strict=True):
            assert ids == whole.token_ids == right.token_ids
            assert text == whole.text == right.text
            assert whole.finish_reason == right.finish_reason
            assert whole.logprobs == right.logprobs
        assert pool.wait(2, 120)  # those that died were replaced
        if pool.resumed - before >= 3:
            break
    assert pool.resumed - before >= 3
    assert_nothing_is_left(pool, loop)


def assert_nothing_is_left(pool: Pool, loop: RemoteLoop, within_s: float = 10.0) -> None:
    """No request, no ticket and no count of tokens stays; the last ticket may end a moment after its answer."""
    end_s = time.monotonic() + within_s
    while (loop.in_flight or loop.unread or pool._router.in_flight) and time.monotonic() < end_s:
        time.sleep(0.005)
    assert loop.in_flight == loop.unread == 0
    with pool._lock:
        assert pool._router.in_flight == 0
        assert all(each.load.answer_tokens == each.load.requests == 0 for each in pool._router.replicas.values())


def test_grammars_and_deadlines_hold_after_a_death(cluster: Cluster) -> None:
    """An answer under a grammar goes on within it; one whose time has run out meanwhile ends with a clear error."""
    pool, loop, members, folder = cluster
    assert pool.wait(2, 120)
    grammars = Grammars(loop.model.tokenizer, loop.model.config.vocab_size)
    schema = {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 60, "maxItems": 90}
    params = SamplingParams(max_tokens=1500, temperature=1.0, seed=3)

    def submit(run: Any) -> Any:
        return run.submit([65, 66, 67], params, RequestOptions(constraint=grammars.constraint(from_schema(schema))))

    one = open_model(folder, ModelOptions(EngineOptions(threads=1, context=2048), speculate=False))
    try:
        (wanted,) = readers.whole(one, lambda: iter([submit(one)]))
    finally:
        one.close()
    for _ in range(MOST_RUNS):
        request, killed = submit(loop), False
        while not request.is_over:
            if request.token_ids and not killed:
                killed = kill_busiest(pool, members)
            time.sleep(0.001)
        assert request.completion().token_ids == wanted.token_ids
        assert 60 <= len(json.loads(request.completion().text)) <= 90
        loop.leave(request)
        if killed:
            break
    assert killed
    assert pool.wait(2, 120)
    hopeless = RequestOptions(deadline=Deadline(total_ms=1200), arrived_s=time.perf_counter())
    request = loop.submit([7] * 40, SamplingParams(max_tokens=300, ignore_eos=True), hopeless)
    with pool._lock:
        names = list(pool._router.replicas)
    for name in names:
        if name in members.channels:
            os.kill(members.channels[name].process.pid, signal.SIGKILL)
    end_s = time.monotonic() + 60
    while not request.is_over and time.monotonic() < end_s:
        time.sleep(0.01)
    with pytest.raises(RefusedError, match=r"no replica|deadline"):  # a new process takes longer than that to start
        request.completion()
    loop.leave(request)
    assert pool.wait(2, 120)
    assert_nothing_is_left(pool, loop)


def kill_busiest(pool: Pool, members: ProcessMembers) -> bool:
    """Kill the replica that has most requests, unless it is known to be dead already; whether one was killed."""
    with pool._lock:
        alive = [each for each in pool._router.replicas.values() if each.name in members.channels]
        busy = max(alive, key=lambda each: len(each.tickets), default=None)
    if busy is None or not busy.tickets:
        return False
    os.kill(members.channels[busy.name].process.pid, signal.SIGKILL)
    return True


@pytest.mark.long
def test_answers_of_a_replica_that_hangs_go_on_elsewhere(cluster: Cluster) -> None:
    """Its connection stays open, as that of a machine that vanishes; its reports do not come."""
    pool, loop, members, folder = cluster
    assert pool.wait(2, 120)
    wanted, stopped = alone(folder), []

    def stop(found: list[Any]) -> None:
        if not stopped and len(found[0][1]) > 60:
            with pool._lock:
                busy = max(pool._router.replicas.values(), key=lambda each: len(each.tickets))
            stopped.append(members.channels[busy.name].process.pid)
            os.kill(stopped[0], signal.SIGSTOP)

    for (_, ids, whole), right in zip(asyncio.run(streamed(loop, stop)), wanted, strict=True):
        assert ids == whole.token_ids == right.token_ids
    assert stopped
    assert pool.wait(2, 120)
    assert_nothing_is_left(pool, loop)


def test_cancelled_and_refused_requests_leave_nothing_behind(cluster: Cluster) -> None:
    pool, loop, _, _ = cluster
    assert pool.wait(1, 120)
    request = loop.submit(PROMPTS[0], PARAMS[0])
    loop.leave(request)
    start_s = time.perf_counter()
    with pytest.raises(DeadlineUnattainableError) as refused:
        loop.submit(PROMPTS[0], PARAMS[0], RequestOptions(deadline=Deadline(total_ms=1)))
    assert time.perf_counter() - start_s < 0.04 * 5  # the bar is 40 ms on a quiet machine
    assert refused.value.predicted_ms > 1
    with pytest.raises(RequestError, match="this model's ids"):
        loop.submit([10**6], PARAMS[0])
    with pytest.raises(RequestError, match="log-probabilities of the prompt"):
        loop.submit(PROMPTS[0], SamplingParams(prompt_logprobs=1))
    assert_nothing_is_left(pool, loop)
    assert request.finish_reason == "cancelled"


def test_adapters_are_in_all_replicas_or_in_none(cluster: Cluster, tmp_path: Path) -> None:
    """Answers through an adapter are those of one engine with it, also after a death; a new replica loads it too."""
    pool, loop, members, folder = cluster
    assert pool.wait(2, 120)
    path = write_adapter(tmp_path, 1)
    with pytest.raises(MiaotuiError, match="nowhere"):
        loop.adapters.load("law", tmp_path / "nowhere")
    assert not loop.adapters
    adapter = loop.adapters.load("law", path)
    with pytest.raises(RequestError, match="loaded already"):
        loop.adapters.load("law", path)
    with pytest.raises(RequestError, match="no adapter 'lore'"):
        loop.submit(PROMPTS[0], PARAMS[0], RequestOptions(adapter="lore"))
    one = open_model(folder, ModelOptions(EngineOptions(threads=1, context=2048), speculate=False))
    try:
        held = one.adapters.load("law", path)
        assert held.digest == adapter.digest
        (wanted,) = readers.whole(one, lambda: iter([one.submit(PROMPTS[0], PARAMS[0], RequestOptions(adapter=held))]))
    finally:
        one.close()
    for _ in range(MOST_RUNS):
        request, killed = loop.submit(PROMPTS[0], PARAMS[0], RequestOptions(adapter=adapter)), False
        while not request.is_over:
            if request.token_ids and not killed:
                killed = kill_busiest(pool, members)
            time.sleep(0.001)
        assert request.completion().token_ids == wanted.token_ids
        loop.leave(request)
        assert pool.wait(2, 120)
        if killed:
            break
    assert killed
    loop.adapters.unload("law")
    with pytest.raises(RequestError, match="no adapter 'law'"):
        loop.submit(PROMPTS[0], PARAMS[0], RequestOptions(adapter="law"))
    assert_nothing_is_left(pool, loop)


def test_a_replica_with_another_file_may_not_join(cluster: Cluster, tmp_path: Path) -> None:
    _, _, _, folder = cluster
    other = make_tiny_folder(tmp_path, "llama", seed=1, max_position_embeddings=2048)
    pool, loop = open_pool("tiny", str(folder), ProcessMembers("tiny", str(other), 1, OPTIONS), 2048)
    try:
        end_s = time.monotonic() + 60
        while not pool.refused and time.monotonic() < end_s:
            time.sleep(0.02)
        (reason,) = pool.refused.values()
        assert "its model file is another one" in reason
        assert not loop.healthy
        assert pool.state.engines == 0
    finally:
        loop.close()


def test_a_pool_that_is_closed_ends_all_and_takes_nothing(cluster: Cluster) -> None:
    _, _, _, folder = cluster
    pool, loop = open_pool("tiny", str(folder), ProcessMembers("tiny", str(folder), 1, OPTIONS), 2048)
    assert pool.wait(1, 120)
    request = loop.submit(PROMPTS[0], PARAMS[0])
    loop.close()
    loop.close()
    assert request.finish_reason == "cancelled"
    with pytest.raises(OverloadedError, match="stopping"):
        loop.submit(PROMPTS[0], PARAMS[0])
    assert loop.in_flight == 0
