"""Routes over pools of encoders and replicas of indexes, beside the same encoder in one process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from local_replicas import LocalChannel, LocalMembers

from miaotui.backends.options import EncoderOptions
from miaotui.cluster.cluster_file import ClusterFile
from miaotui.cluster.indexes.pool import IndexPool
from miaotui.cluster.indexes.replica import IndexReplica
from miaotui.cluster.jobs.pool import JobPool
from miaotui.cluster.jobs.replica import EncoderReplica
from miaotui.cluster.open_pools import OpenPools
from miaotui.cluster.pool_metrics import PoolMetrics
from miaotui.encoder import Encoder
from miaotui.encoders.runtime import run_encoder
from miaotui.hub.digest import model_digest
from miaotui.serve.app import create_app
from miaotui.serve.documents.index_registry import IndexRegistry
from miaotui.serve.middleware.keys import ANYONE
from miaotui.serve.settings import ServeSettings
from miaotui.serve.start import open_services
from tiny_encoder_models import make_encoder_folder
from tiny_models import make_tiny_folder

TEXTS = ["the cat sat", "ana is good", "paris"]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Encoder]:
    folder = make_encoder_folder(tmp_path)
    with Encoder(*run_encoder(folder, EncoderOptions(backend="reference", pooling="mean")), owns_loop=True) as model:
        yield model


def test_routes_answer_from_replicas(alone: Encoder, tmp_path: Path) -> None:
    path = alone.model.path
    values = {"models": {"vectors": {"model": str(path), "pooling": "mean", "backend": "reference"}}}
    (specification,) = ClusterFile.of(values).located().pools

    def members() -> LocalMembers:
        replica = EncoderReplica(alone_running(alone), model_digest(path))
        return LocalMembers({"a": LocalChannel(replica), "b": LocalChannel(replica)})

    async def run() -> None:
        opened = OpenPools()
        opened.add(specification, members)
        pool = opened.pools["vectors"]
        assert isinstance(pool, JobPool)
        assert await asyncio.to_thread(pool.wait, 2, 60)
        searchers = IndexReplica(tmp_path)
        index_pool = IndexPool(LocalMembers({"s": LocalChannel(searchers)}))
        assert await asyncio.to_thread(index_pool.pool.wait, 1, 60)
        found = open_services(opened.decoders, ServeSettings(models=("vectors",)), opened.encoders)
        registry = IndexRegistry(tmp_path / "indexes")
        services = replace(found, index_replicas=index_pool, indexes=registry, meaning=None)
        PoolMetrics(opened.pools, services.operations.metrics.registry)
        entry = services.encoders["vectors"]
        await services.encoders.load(entry)
        client = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(services)), base_url="http://localhost")
        async with client:
            await ask_all(client, alone)
            assert (await client.get("/health")).status_code == 200
            metrics = (await client.get("/metrics")).text
            assert 'miaotui_replica_takes_requests{machine="' in metrics
            await services.encoders.put_away(entry)
            await ask_all(client, alone)  # it was opened anew
            assert opened.pools["vectors"] is not pool
            await search(client, index_pool, registry, searchers.root)
        services.close()
        searchers.close()

    asyncio.run(run())


def test_models_that_sleep_are_opened_and_probed_without_a_start(tmp_path: Path) -> None:
    """A server that starts over them is ready at once; what looks after it neither wakes them nor keeps them awake."""
    paths = {"chat": make_tiny_folder(tmp_path, "llama"), "vectors": make_encoder_folder(tmp_path)}
    values = {
        name: {"model": str(path), "autoscale": {"least": 0, "most": 1, "idle_s": 1e-6}} for name, path in paths.items()
    }

    async def run() -> None:
        opened = OpenPools()
        for specification in ClusterFile.of({"models": values}).located().pools:
            opened.add(specification, lambda: LocalMembers({}))
        late = threading.Timer(60, opened.decoders["chat"].close)  # ends what would wait for a replica
        late.start()
        services = open_services(opened.decoders, ServeSettings(models=tuple(values)), opened.encoders)
        await services.encoders.load(services.encoders["vectors"])
        assert late.is_alive(), "the start has waited for a replica"
        late.cancel()
        client = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(services)), base_url="http://localhost")
        async with client:
            assert (await client.get("/ready")).status_code == 200
            assert (await client.get("/health")).status_code == 200
        assert {name: pool.wanted(0) for name, pool in opened.pools.items()} == {"chat": 0, "vectors": 0}
        assert not any(pool._tasks for pool in opened.pools.values())
        services.close()

    asyncio.run(run())


def alone_running(alone: Encoder) -> Any:
    class Shared:
        model, loop = alone.model, alone.loop

    return Shared()


async def ask_all(client: httpx.AsyncClient, alone: Encoder) -> None:
    """Ask the routes of encoders, and compare."""
    listed = (await client.get("/v1/models")).json()["data"]
    assert [each["id"] for each in listed] == ["vectors"]
    body = {"model": "vectors", "input": TEXTS, "encoding_format": "float"}
    answer = await client.post("/v1/embeddings", json=body)
    assert [each["embedding"] for each in answer.json()["data"]] == alone.embed(TEXTS, prompt=None).tolist()
    assert answer.json()["usage"]["prompt_tokens"] > 0
    ranked = await client.post("/v1/rerank", json={"model": "vectors", "query": "the cat", "documents": TEXTS})
    wanted = [each.index for each in alone.rerank("the cat", TEXTS)]
    assert [each["index"] for each in ranked.json()["results"]] == wanted
    late = await client.post("/v1/embeddings", json={**body, "input": TEXTS * 50, "deadline_ms": 0.01})
    assert late.status_code == 429
    wrong = await client.post("/v1/embeddings", json={**body, "input": "cat " * 500})
    assert wrong.status_code == 400


async def search(client: httpx.AsyncClient, pool: IndexPool, registry: IndexRegistry, copies: Path) -> None:
    """Add documents and find them: at the replica, once it has the snapshot; deleted, they are in no file of its."""
    documents = [{"id": f"d{number}", "body": text} for number, text in enumerate(TEXTS)]
    await client.post("/v1/indexes/notes/documents", json={"documents": documents})
    index = registry.to_search(ANYONE, "notes")
    assert await asyncio.to_thread(pool.wait, index, 1, 60)
    before = pool.searched_here
    found = (await client.post("/v1/indexes/notes/search", json={"query": "paris", "explain": True})).json()
    assert [each["id"] for each in found["data"]] == ["d2"]
    assert pool.searched_here == before
    await client.post("/v1/indexes/notes/documents", json={"documents": [{"id": "d9", "body": "a second snapshot"}]})
    assert await asyncio.to_thread(pool.wait, index, 1, 60)
    assert holding(copies, b"paris"), "there are copies"
    await client.request("DELETE", "/v1/indexes/notes/documents/d2")
    assert not holding(copies, b"paris")
    gone = (await client.post("/v1/indexes/notes/search", json={"query": "paris"})).json()
    assert gone["data"] == []
    await client.request("DELETE", "/v1/indexes/notes")
    assert not holding(copies, b"second")
    assert (await client.post("/v1/indexes/notes/search", json={"query": "cat"})).status_code == 404


def holding(folder: Path, word: bytes) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and word in path.read_bytes()]
