"""What was acknowledged stays; one writer at a time; a full disk and damage are one clear error."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_documents import made_documents

from miaotui.errors import CacheError, DocumentIndexError, IndexBusyError, IndexMissingError, RequestError
from miaotui.retrieval import Document, Index, IndexSettings

HERE = Path(__file__).parent


def killed_midway(folder: Path, first: int, chance: random.Random) -> list[str]:
    """What a writing process acknowledged before it was killed at a random moment."""
    command = [sys.executable, str(HERE / "writing_process.py"), str(folder), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(chance.randint(1, 40))]
        threading.Event().wait(chance.random() * 0.02)
        process.kill()
        lines = [*acknowledged, *process.stdout.readlines()]
        return [line for line in lines if line.endswith("\n")]


@pytest.mark.parametrize(
    "kills", [2, pytest.param(20, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.long)]
)
def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path, kills: int) -> None:
    folder, chance = tmp_path / "index", random.Random(5)
    Index.create(folder, IndexSettings(partitions=2)).close()
    living: set[int] = set()
    for kill in range(kills):
        lines = [one.split() for one in killed_midway(folder, 1_000 * kill, chance)]
        for what, number in lines:
            (living.add if what == "added" else living.discard)(int(number))
        what, number = lines[-1]
        if what == "added" and int(number) % 5 == 4:  # a deletion may have been under way
            living.discard(int(number) - 2)
        with Index.open(folder) as index:
            for one in living if kill == kills - 1 else sorted(living)[-40:]:
                assert _found(index, one) == [f"n{one}"]
            index.add([Document("after", "the lock was let go")])


def test_a_writer_killed_while_it_deletes_is_in_nobodys_way(tmp_path: Path) -> None:
    with Index.create(tmp_path / "index") as index:
        index.add([Document(str(number), f"word{number}") for number in range(3)])
    shutil.copytree(tmp_path / "index", tmp_path / "killed")
    with Index.open(tmp_path / "index") as index, index._changing():
        index._partitions[0].delete("1")  # without the rewriting that follows
    (written,) = (tmp_path / "index").glob("*/*.del")
    partition = tmp_path / "killed" / written.parent.name
    (partition / written.name).write_bytes(b"half of it")
    with Index.open(tmp_path / "killed") as index:
        assert len(index) == 3
        index.delete(["1"])
        assert len(index) == 2


def _found(index: Index, number: int) -> list[str]:
    return [hit.id for hit in index.search(f"alpha{number}")]


def test_a_second_writer_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    first = Index.create(tmp_path / "index")
    first.add([Document("1", "cats")])
    second = Index.open(tmp_path / "index")
    with pytest.raises(IndexBusyError, match="being written by another"):
        second.add([Document("2", "dogs")])
    first.add([Document("3", "mice")])
    assert [hit.id for hit in second.search("cats mice dogs")] in (["1", "3"], ["3", "1"])
    first.close()
    second.add([Document("2", "dogs")])
    assert len(second) == 3


def test_two_writers_take_turns(tmp_path: Path) -> None:
    first = Index.create(tmp_path / "index")
    second = Index.open(tmp_path / "index")
    writers = (first, second)
    for turn in range(6):
        writer, other = writers[turn % 2], writers[(turn + 1) % 2]
        writer.add([Document(str(turn), f"word{turn}")])
        assert not writer.release(3600.0), "it was changed just now"
        with pytest.raises(IndexBusyError):
            other.add([Document("x", "too early")])
        assert writer.release()
        assert len(other) == turn + 1
    assert first.release()
    assert len(first.search("word0 OR word1 OR word2 OR word3 OR word4 OR word5")) == 6


def test_an_index_is_not_let_go_while_it_is_written(tmp_path: Path) -> None:
    index, midway, go_on = Index.create(tmp_path / "index"), threading.Event(), threading.Event()

    def slowly() -> Iterator[Document]:
        yield Document("1", "cats")
        midway.set()
        go_on.wait(10)
        yield Document("2", "dogs")

    writing = threading.Thread(target=index.add, args=(slowly(),))
    writing.start()
    assert midway.wait(10)
    assert not index.release()
    go_on.set()
    writing.join()
    assert index.release()
    assert len(index) == 2


def test_threads_of_one_process_take_turns(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")

    def work(start: int) -> None:
        for number in range(start, start + 2):
            index.add([Document(str(number), f"word{number}")])
            assert len(index.search(f"word{number}")) == 1

    threads = [threading.Thread(target=work, args=(10 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(index) == 8


def test_a_failed_load_changes_nothing(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    index.add([Document("1", "cats")])

    def failing() -> object:
        yield Document("1", "dogs")
        raise RequestError("enough")

    with pytest.raises(RequestError, match="enough"):
        index.add(failing())  # type: ignore[arg-type]
    assert [hit.body for hit in index.search("cats dogs")] == ["cats"]
    index.add([Document("2", "dogs")])
    assert len(index) == 2


WRITES_TOO_MUCH = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from made_documents import made_documents
from miaotui.errors import MiaotuiError
from miaotui.retrieval import Index
index = Index.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    index.add(made_documents(2_000))
except MiaotuiError as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_is_one_error_and_the_index_intact(tmp_path: Path) -> None:
    with Index.create(tmp_path / "index") as index:
        index.add([Document("1", "cats")])
    command = [sys.executable, "-c", WRITES_TOO_MUCH, str(tmp_path / "index"), str(HERE.parent)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.startswith("DocumentIndexError cannot write the index"), ended
    with Index.open(tmp_path / "index") as index:
        assert [hit.id for hit in index.search("cats")] == ["1"]
        index.add(made_documents(20))
        assert len(index) == 21


def test_missing_and_damaged_indexes_say_so(tmp_path: Path) -> None:
    with pytest.raises(IndexMissingError, match="miaotui index create nothing"):
        Index.open(tmp_path / "nothing")
    Index.create(tmp_path / "index").close()
    with pytest.raises(RequestError, match="already"):
        Index.create(tmp_path / "index")
    (tmp_path / "index" / "partition-0" / "meta.json").write_text("{")
    with pytest.raises(DocumentIndexError):
        Index.open(tmp_path / "index")
    plan = tmp_path / "index" / "index.json"
    plan.write_text(json.dumps({"format": 99}))
    with pytest.raises(DocumentIndexError, match="later miaotui"):
        Index.open(tmp_path / "index")
    plan.write_text("[")
    with pytest.raises(DocumentIndexError, match="cannot be read"):
        Index.open(tmp_path / "index")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError):
        Index.create(tmp_path / "file" / "index")


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".x", "x" * 65, "a\0"])
def test_names_are_checked(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path))
    if "/" not in name:
        with pytest.raises(RequestError, match="no name for an index"):
            Index.open(name)


def test_another_process_sees_what_was_committed(tmp_path: Path) -> None:
    writer = Index.create(tmp_path / "index")
    reader = Index.open(tmp_path / "index")
    before = reader.version
    assert len(reader.search("cats")) == 0
    writer.add([Document("1", "cats")])
    assert len(reader.search("cats")) == 1
    assert reader.version != before
    writer.delete(["1"])
    assert len(reader.search("cats")) == 0


def test_passages_of_a_document_come_and_go_together(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", IndexSettings(passage_chars=200, partitions=3))
    long = "\n\n".join(f"paragraph number{n} " + "word " * 30 for n in range(10))
    assert index.add([Document("a#b", long, "Title"), Document("c", "short")]) > 10
    assert index.search("number7")[0].document == "a#b"
    assert index.add([Document("a#b", "number7 alone")]) == 1
    assert [hit.id for hit in index.search("number7")] == ["a#b"]
    assert index.delete(["a#b", "nothing"]) == 1
    with pytest.raises(RequestError, match="no document 'a#b'"):
        index.update([Document("a#b", "x")])
    assert [one.id for one in index.get("c")] == ["c"]


def test_an_index_in_the_current_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IndexMissingError, match="Create it: miaotui index create library"):
        Index.open("library")
    Index.create(Path("library")).close()
    with pytest.raises(IndexMissingError, match=r"here is one: write \./library"):
        Index.open("library")
    Index.open("./library").close()
    Index.create("library").close()
    Index.open("library").close()
