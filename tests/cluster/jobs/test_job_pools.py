"""Jobs of encoders over replicas, beside the same jobs in one process; replicas die, refuse and send nonsense."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_replicas import LocalChannel, LocalMembers

from miaotui.backends.encoder_backend import TextRows
from miaotui.backends.options import EncoderOptions
from miaotui.cluster.jobs.arrays import arrays_piece, read_arrays
from miaotui.cluster.jobs.pool import JobPool
from miaotui.cluster.jobs.replica import EncoderReplica
from miaotui.cluster.messages import error_piece
from miaotui.cluster.pool_loop import open_encoder_pool
from miaotui.cluster.routing.breaker import FAILURES
from miaotui.cluster.routing.scaling import ScaleRange
from miaotui.encoder import Encoder
from miaotui.encoders.runtime import run_encoder
from miaotui.engine.encoding.job import Reduction
from miaotui.engine.encoding.reading import StateReading
from miaotui.errors import DeadlineUnattainableError, OverloadedError, RequestError
from miaotui.hub.digest import model_digest
from tiny_encoder_models import make_encoder_folder

TEXTS = ["the cat sat on the mat", "ana is good", "paris", "dog, dog and dog", "the query is on the passage"]
REFERENCE = EncoderOptions(backend="reference", pooling="mean")


class World:
    """One model in this process, and a pool of two replicas of it, which share its loop."""

    def __init__(self, path: Path) -> None:
        running = run_encoder(path, REFERENCE)
        self.alone = Encoder(*running, owns_loop=True)
        replica = EncoderReplica(running, model_digest(path))
        self.channels = {name: LocalChannel(replica) for name in "ab"}
        self.pool, remote = open_encoder_pool("tiny", str(path), LocalMembers(self.channels), {"pooling": "mean"})
        self.remote = Encoder(*remote, owns_loop=True)
        assert self.pool.wait(2, 60), self.pool.refused

    def close(self) -> None:
        self.remote.close()
        self.alone.close()


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, World]]:
    root = tmp_path_factory.mktemp("encoders")
    found = {
        task: World(make_encoder_folder(root, task)) for task in ("embed", "classify", "tag", "fill_mask", "rerank")
    }
    try:
        yield found
    finally:
        for each in found.values():
            each.close()


def same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray):
        return first.tobytes() == second.tobytes() and first.shape == second.shape
    return bool(first == second)


def test_every_kind_of_result_is_that_of_one_process(worlds: dict[str, World]) -> None:
    calls = {
        "embed": [
            lambda e: e.embed(TEXTS),
            lambda e: e.embed(TEXTS, normalize=False),
            lambda e: e.embed([]),
            lambda e: e.rerank("the cat", TEXTS),
            lambda e: e.score([("the cat", text) for text in TEXTS]),
        ],
        "classify": [lambda e: e.classify(TEXTS)],
        "tag": [lambda e: e.tag(TEXTS, aggregation="none")],
        "fill_mask": [lambda e: e.fill_mask(["the [MASK] sat on the [MASK]", "[MASK] is good"], top_k=4)],
        "rerank": [lambda e: e.rerank("the cat", TEXTS), lambda e: e.score([("ana", text) for text in TEXTS])],
    }
    for task, world in worlds.items():
        for call in calls[task]:
            assert same(call(world.remote), call(world.alone)), task
        assert world.pool.resumed == 0
        assert world.remote.model.abilities == world.alone.model.abilities
    for channel in worlds["embed"].channels.values():
        channel.messages.clear()


def test_a_job_whose_replica_dies_goes_on_elsewhere_from_its_next_result(worlds: dict[str, World]) -> None:
    world = worlds["embed"]
    world.channels["a"].pieces_left = world.channels["b"].pieces_left = 2
    before = world.pool.resumed
    assert same(world.remote.embed(TEXTS), world.alone.embed(TEXTS))
    assert world.pool.resumed == before + 2
    asked = [each["skip"] for channel in world.channels.values() for each in channel.messages if each["skip"]]
    assert sorted(asked) == [2, 4], "results that are here are not asked for again"
    assert_nothing_is_left(world.pool)


def test_results_that_are_lost_or_come_twice_are_asked_again(worlds: dict[str, World]) -> None:
    world = worlds["embed"]
    assert world.pool.wait(2, 60)
    before = world.pool.resumed
    for fault in ("drops", "doubles"):
        for channel in world.channels.values():
            getattr(channel, fault).add(1)
        assert same(world.remote.embed(TEXTS), world.alone.embed(TEXTS)), fault
        for channel in world.channels.values():
            getattr(channel, fault).clear()
    assert world.pool.resumed > before
    assert_nothing_is_left(world.pool)


def test_jobs_in_line_bring_more_replicas(worlds: dict[str, World]) -> None:
    """Work that is offered counts, refused deadlines too; the number stays within its range."""
    folder = worlds["embed"].alone.model.path
    members = LocalMembers({})
    pool, running = open_encoder_pool("tiny", str(folder), members, {"pooling": "mean"}, ScaleRange(1, 3))
    with Encoder(*running, owns_loop=True) as remote:
        assert pool.has_range
        assert pool.wanted(1) == 1
        with pytest.raises(OverloadedError, match="no replica"):
            remote.embed(TEXTS)
        members.channels["a"] = worlds["embed"].channels["a"]
        assert pool.wait(1, 60)
        with pytest.raises(DeadlineUnattainableError):
            remote.embed(TEXTS, deadline_ms=0.01)
        assert pool.wanted(1) == 2, "a deadline was refused"
        assert pool.wanted(3) == 3


def test_a_model_that_sleeps_is_started_by_a_request(worlds: dict[str, World]) -> None:
    """Without a replica, work waits for a start; a deadline that is sooner is refused and starts one all the same."""
    world = worlds["embed"]
    members = LocalMembers({})
    scale = ScaleRange(0, 3, calm_s=1e-6, idle_s=1e-6)
    pool, running = open_encoder_pool("tiny", str(world.alone.model.path), members, {"pooling": "mean"}, scale)
    with Encoder(*running, owns_loop=True) as remote:
        assert pool.state.asleep
        assert pool.wanted(1) == 0, "nothing was asked"
        with pytest.raises(DeadlineUnattainableError, match="is being started") as refused:
            remote.embed(TEXTS, deadline_ms=500)
        assert refused.value.predicted_ms is not None
        assert refused.value.predicted_ms > 500
        assert pool.wanted(0) == 1, "one is started for whoever asks again"
        asked = [TextRows((2, 3))], Reduction("raw", lambda _, values: values, StateReading("states"))
        job = remote.loop.submit(*asked)
        while not pool._tasks:  # the pool's thread takes it in
            time.sleep(0.001)
        assert pool.wanted(1) >= 1, "it is wanted as long as a job waits"
        assert not job.is_over
        members.channels["a"] = world.channels["a"]
        (found,), (wanted,) = job.future.result(60), world.remote.loop.submit(*asked).future.result(60)
        assert same(found, wanted)
        assert not pool.state.asleep
        assert_nothing_is_left(pool)
        assert same(remote.embed(TEXTS), world.alone.embed(TEXTS))


def assert_nothing_is_left(pool: JobPool) -> None:
    with pool._lock:
        assert pool._router.in_flight == 0
        assert all(each.load.requests == each.load.prompt_tokens == 0 for each in pool._router.replicas.values())


def test_refusals_go_to_another_replica_and_client_errors_do_not(worlds: dict[str, World]) -> None:
    world = worlds["embed"]
    assert world.pool.wait(2, 60)
    full = error_piece(OverloadedError("it is full", 1.0))
    world.channels["a"].error = full
    assert same(world.remote.embed(TEXTS), world.alone.embed(TEXTS))
    world.channels["b"].error = full
    with pytest.raises(OverloadedError, match="it is full"):
        world.remote.embed(TEXTS)
    for channel in world.channels.values():
        channel.error = error_piece(RequestError("wrong text"))
    for _ in range(FAILURES + 1):
        with pytest.raises(RequestError, match="wrong text"):
            world.remote.embed(TEXTS)
    for channel in world.channels.values():
        channel.error = None
    assert all(each["takes_requests"] for each in world.pool.replicas.values()), "no fault of the replicas"
    with pytest.raises(DeadlineUnattainableError) as late:
        world.remote.embed(TEXTS * 40, deadline_ms=0.01)
    assert late.value.predicted_ms > 0.01
    with pytest.raises(RequestError, match="cannot be computed by an encoder in another process"):
        world.remote.loop.submit([TextRows((1, 2))], Reduction("own", lambda _, states: states))
    assert_nothing_is_left(world.pool)


def test_damaged_messages_are_refused_by_the_replica(worlds: dict[str, World]) -> None:
    loop = worlds["embed"].remote.loop

    def asked(reading: Any, tokens: Any = (2, 3)) -> Any:
        return loop.submit([TextRows(tokens)], Reduction("raw", lambda _, v: v, reading)).future.result(30)

    assert len(asked(StateReading("states"))[0]) == 2
    for wrong, reason in (
        (StateReading("logits"), "has no head"),
        (StateReading("states", rows=((5,),)), "rows that there are not"),
        (StateReading("all"), "does not fit"),  # type: ignore[arg-type]
        (StateReading("embedding", prompt_rows=(1, 2)), "does not fit"),
    ):
        with pytest.raises(RequestError, match=reason):
            asked(wrong)
    with pytest.raises(RequestError, match="token ids must be"):
        asked(StateReading("states"), (10**6,))


def test_numbers_cross_exactly_and_damaged_ones_are_refused() -> None:
    arrays = [np.float32([[1.5, -0.0], [np.inf, 1e-45]]), np.zeros((0, 3), np.float32), np.float32(7.0).reshape(())]
    for one, other in zip(read_arrays(arrays_piece(arrays)), arrays, strict=True):
        assert one.tobytes() == other.tobytes()
        assert one.shape == other.shape
    whole = arrays_piece(arrays)
    for damage in ({"f32": "§"}, {"f32": "AAAA"}, {"shapes": [[-1, -4]]}, {"shapes": [[1] * 9]}, {"shapes": 3}):
        with pytest.raises(RequestError, match="damaged"):
            read_arrays({**whole, **damage})


def test_a_pool_that_is_closed_ends_its_jobs(tmp_path: Path) -> None:
    world = World(make_encoder_folder(tmp_path))
    for channel in world.channels.values():
        channel.is_held = True
    held = world.remote.loop.submit([TextRows((2, 3))], Reduction("raw", lambda _, v: v, StateReading("states")))
    world.close()
    with pytest.raises(OverloadedError, match="the encoder is stopping"):
        held.future.result(30)
    with pytest.raises(OverloadedError, match="stopping"):
        world.pool.dispatch(held, {}, lambda *_: None)
