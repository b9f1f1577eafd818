"""Snapshots of indexes at replicas: sent whole or not at all, searched in the newest version alone."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from local_replicas import LocalChannel, LocalMembers

from miaotui.cluster.indexes.pool import IndexPool
from miaotui.cluster.indexes.replica import IndexReplica
from miaotui.cluster.messages import VERSION, error_piece
from miaotui.errors import OverloadedError, RequestError
from miaotui.retrieval.document import Document
from miaotui.retrieval.index.committed import open_state
from miaotui.retrieval.index.index import Index
from miaotui.retrieval.index.settings import IndexSettings


def documents(first: int, count: int) -> list[Document]:
    words = ("cat", "dog", "paris", "bread", "river")
    return [
        Document(id=f"d{number}", title=f"note {number}", body=f"the {words[number % 5]} and the {words[number % 3]}")
        for number in range(first, first + count)
    ]


class World:
    """An index of two partitions that this process writes, and two replicas."""

    def __init__(self, root: Path) -> None:
        self.index = Index.create(root / "notes", IndexSettings(partitions=2))
        self.root = root
        self.replicas = {name: IndexReplica(root) for name in "ab"}
        self.members = LocalMembers({name: LocalChannel(each) for name, each in self.replicas.items()})
        self.pool = IndexPool(self.members)
        assert self.pool.pool.wait(2, 60), self.pool.pool.refused

    def add(self, first: int, count: int) -> None:
        self.index.add(documents(first, count))
        self.pool.changed(self.index)

    def same(self, query: str) -> None:
        """Whatever answers, it is what the index itself would."""
        found, right = self.pool.searchable(self.index).search(query, 8), self.index.search(query, 8)
        assert [(hit.score, hit.passage) for hit in found] == [(hit.score, hit.passage) for hit in right]
        assert found.version == right.version
        assert [hit.snippet for hit in found] == [hit.snippet for hit in right]

    def close(self) -> None:
        self.pool.close()
        self.index.close()
        for each in self.replicas.values():
            each.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_replicas_answer_from_the_newest_version_only(world: World) -> None:
    world.add(0, 30)
    world.same("cat")
    assert world.pool.wait(world.index, 2, 60)
    before = world.pool.searched_here
    for query in ("cat", "paris AND dog", "nothing", 'title:"note 3"'):
        world.same(query)
    assert world.pool.searched_here == before, "all of these were searched by replicas"
    world.index.add(documents(30, 5))  # a change that no replica has yet
    world.same("river")
    assert world.pool.searched_here == before + 1
    world.pool.changed(world.index)
    assert world.pool.wait(world.index, 2, 60)
    world.index.delete(["d3"])
    world.pool.changed(world.index)
    assert world.pool.wait(world.index, 2, 60)
    world.same("bread")
    with pytest.raises(RequestError, match="limit must be"):
        world.pool.searchable(world.index).search("cat", 0)
    with pytest.raises(RequestError):
        world.pool.searchable(world.index).search("((", 3)


def test_a_replica_that_comes_anew_gets_all_and_only_what_it_lacks(world: World) -> None:
    world.add(0, 30)
    assert world.pool.wait(world.index, 2, 60)
    whole = sent(world.members.channels["a"])
    assert whole
    world.add(30, 5)
    assert world.pool.wait(world.index, 2, 60)
    more = sent(world.members.channels["a"])[len(whole) :]
    assert not set(more) & {name for name in whole if not name.endswith("meta.json")}, "segments are sent once"
    del world.members.channels["a"]
    fresh = world.replicas["c"] = IndexReplica(world.root)
    world.members.channels["c"] = LocalChannel(fresh)
    end = world.pool.pool
    assert end.wait(2, 60)
    assert world.pool.wait(world.index, 2, 60)
    world.members.channels["b"].error = error_piece(OverloadedError("full", 0.1))
    before = world.pool.searched_here
    world.same("cat")
    assert world.pool.searched_here == before
    world.members.channels.clear()  # all have gone: it is searched here
    while end.replicas:
        pass
    world.same("dog")


def sent(channel: LocalChannel) -> list[str]:
    return [str(each["name"]) for each in channel.messages if each.get("do") == "put"]


def test_a_snapshot_that_is_damaged_or_hostile_is_not_used(world: World) -> None:
    replica = world.replicas["a"]
    world.add(0, 3)
    key, data = "ab" * 16, b"x"
    sha256 = hashlib.sha256(data).hexdigest()
    head: dict[str, Any] = {"version": VERSION, "key": key, "digest": "cd" * 16}

    def ask(**message: Any) -> dict[str, Any]:
        async def reply() -> dict[str, Any]:
            async with aclosing(replica.answer({**head, **message})) as pieces:
                return [each async for each in pieces][-1]

        return asyncio.run(reply())

    def put(**more: Any) -> dict[str, Any]:
        return ask(**{"do": "put", "name": "index.json", "at": 0, "data": base64.b64encode(data).decode(), **more})

    for name in ("../x", "/etc/passwd", "partition-0/../../x", "partition-0/.hidden", "partition-0/a/b", "other.json"):
        assert "no index" in ask(do="offer", files=[[name, 1, sha256]])["error"]
    assert "do not fit" in ask(do="offer", files=[["index.json", 1 << 60, sha256]])["error"]
    assert "is none" in ask(do="offer", key="..", files=[])["error"]
    assert "was not offered" in put()["error"]
    assert ask(do="offer", files=[["index.json", 1, sha256]])["wanted"] == ["index.json"]
    assert "not the next one" in put(at=1)["error"]
    assert "not the next one" in put(data=base64.b64encode(b"xy").decode())["error"]
    assert "cannot be used" in put(data="§")["error"]
    assert "cannot be used" in put(name="partition-0/meta.json")["error"]
    assert "did not come whole" in ask(do="use")["error"]
    put(data=base64.b64encode(b"y").decode())
    assert "did not come whole" in ask(do="use")["error"]
    assert "of another version" in ask(do="offer", version=VERSION + 1)["error"]
    assert "of another version" in ask(do="remove")["error"]
    assert ask(do="search", wanted="1", query="a", limit=1, offset=0, plain=True)["kind"] == "overloaded"
    assert world.pool.wait(world.index, 2, 60), "none of it has harmed what is there"
    world.same("cat")


def test_folders_of_processes_that_were_killed_are_removed(tmp_path: Path) -> None:
    living = IndexReplica(tmp_path)
    left = tmp_path / "replica-left"
    left.mkdir()
    (left / "lock").touch()
    (left / "segment").write_bytes(b"x")
    (tmp_path / "notes").mkdir()
    other = IndexReplica(tmp_path)
    assert not left.exists()
    assert len(list(tmp_path.glob("replica-*"))) == 2, "those of living ones stay"
    living.close()
    other.close()
    other.close()
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_a_state_is_whole_while_the_index_is_written(world: World) -> None:
    world.index.add(documents(0, 50))
    with open_state(world.index.folder) as state:
        digest = state.digest
        world.index.add(documents(0, 50))  # replaces all of it
        for each in state.files:
            each.file.seek(0)
            content = each.file.read()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (each.size, each.sha256)
    with open_state(world.index.folder) as state:
        assert state.digest != digest
