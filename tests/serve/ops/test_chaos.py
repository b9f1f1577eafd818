"""Many clients at once with requests of all shapes, a third of whom vanish: nothing leaks, everything
ends, and who stays hears what he would have heard alone.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator

import plain_http
import pytest
from serving import Serving, serving

from benchmarks.serving.chaos_requests import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Heard, Shot, fire, random_shot
from miaotui.backends.options import EngineOptions
from miaotui.kernels.linear.formats import Format
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

# Few pages, so that some requests are paused; several rows, so that they batch.
OPTIONS = EngineOptions(format=Format.Q8, threads=2, chunk_size=48, max_sequences=6, context=512, kv_tokens=1024)
CLIENTS = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("chaos")
    model = make_tiny_folder(folder, "llama", max_position_embeddings=512)
    with serving({"tiny": model}, settings_in(folder), options=OPTIONS) as running:
        yield running


def paths(server: Serving) -> list[str]:
    known = plain_http.get(f"{server.url}/openapi.json").json()["paths"]
    return [path for path in (CHAT, CHAT, COMPLETIONS, MESSAGES, RESPONSES) if path in known]


def shots(server: Serving, count: int, seed: int) -> list[Shot]:
    rng, open_ = random.Random(seed), paths(server)
    return [random_shot(rng, "tiny", open_, gone=0.3, longest=24) for _ in range(count)]


async def fire_all(server: Serving, several: list[Shot], clients: int) -> list[Heard]:
    port = int(server.url.rsplit(":", 1)[1])
    line = iter(several)
    heard: list[Heard] = []

    async def client() -> None:
        for shot in line:
            heard.append(await fire("127.0.0.1", port, shot))

    await asyncio.gather(*(client() for _ in range(clients)))
    return heard


def assert_nothing_is_left(server: Serving) -> None:
    """No request, no reader, no page; and the scheduler's books are right."""
    hosted = server.hosts["tiny"]
    end_s = time.monotonic() + 10
    while server.in_flight() or hosted.loop.unread:
        assert time.monotonic() < end_s, "a request did not end"
        time.sleep(0.01)
    scheduler = hosted.loop.engine.scheduler
    scheduler.check()
    assert scheduler.stats().pages_used == 0
    assert not hosted.loop._active
    assert not hosted.loop._coming


def assert_sound(heard: list[Heard]) -> None:
    for one in heard:
        shot = one.shot
        if shot.leaves:
            continue
        expected = {400} if shot.wrong else {200, 429} if shot.timed else {200}
        assert one.status in expected, one
        assert one.ended or one.status != 200, shot


@pytest.mark.parametrize(
    ("count", "clients"),
    [pytest.param(120, CLIENTS, id="short"), pytest.param(2000, 4 * CLIENTS, id="long", marks=pytest.mark.slow)],
)
def test_vanishing_clients_leave_nothing_behind(server: Serving, count: int, clients: int) -> None:
    heard = asyncio.run(fire_all(server, shots(server, count, seed=count), clients))
    assert len(heard) == count
    assert_nothing_is_left(server)
    assert_sound(heard)
    again = [one for one in heard if one.shot.is_repeatable][:60]
    alone = asyncio.run(fire_all(server, [one.shot for one in again], 1))
    assert [dict(one.texts) for one in alone] == [dict(one.texts) for one in again]
    assert_nothing_is_left(server)
