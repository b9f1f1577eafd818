"""Deletion from large segments: bounded memory, and whole after a kill wherever it falls."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from miaotui.retrieval import Document, Index
from miaotui.retrieval.index import snapshot as snapshots
from miaotui.retrieval.index.partition import Partition
from miaotui.retrieval.index.snapshot import Snapshot

SECRET = "qwrtzplm"


def index_of(folder: Path, documents: int) -> Index:
    index = Index.create(folder)
    index.add(Document(str(number), f"passage {number} about cats " + "and so on " * 60) for number in range(documents))
    return index


def holding(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


class KilledError(BaseException):
    """Stands for the end of the process: nothing is tidied up behind it."""


def cut_short(index: Index) -> None:
    """Let go of an index as a process does that is killed."""
    for partition in index._partitions:
        partition.abandon()
    assert index._held is not None
    os.close(index._held)


@pytest.mark.parametrize("place", ["commit", "rewrite", "drop"])
def test_a_deletion_that_was_cut_short_is_done_by_the_next_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    index = index_of(tmp_path / "notes", 30)
    index.add([Document("secret", f"the word is {SECRET}"), Document("other", "zebras run")])

    def killed(*_: object) -> None:
        raise KilledError

    names = {"commit": (Partition, "rewrite"), "rewrite": (Partition, "add"), "drop": (Partition, "_drop_unused")}
    with monkeypatch.context() as patch:
        patch.setattr(*names[place], killed)
        with pytest.raises(KilledError):
            index.delete(["secret"])
    assert index.purge_is_due
    cut_short(index)
    for again in ("delete", "add"):
        with Index.open(tmp_path / "notes") as opened:
            assert len(opened.search(SECRET)) == 0
            if again == "delete":
                assert place == "drop" or holding(opened.folder)
                assert opened.delete(["secret"]) == 0, "it was found no more"
            else:
                opened.add([Document("new", "a new one")])
            assert not holding(opened.folder)
            assert not opened.purge_is_due
            assert len(opened.search("zebras")) == 1
            assert len(opened) == 31 + (again == "add")


def test_an_unknown_document_writes_nothing_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with index_of(tmp_path / "notes", 3) as index:
        index.add([Document("1", "replaced")])
        monkeypatch.setattr(Partition, "rewrite", lambda *_: pytest.fail("nothing was deleted"))
        assert index.delete(["nothing"]) == 0
        assert not index.purge_is_due


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "_AT_ONCE", 64)


@pytest.mark.usefixtures("few_at_once")
def test_a_large_segment_is_written_anew_within_bounded_memory(tmp_path: Path) -> None:
    """Python holds some passages at a time, whatever the segment holds; all others are found afterwards."""
    peaks = []
    for count in (400, 2000):
        with index_of(tmp_path / str(count), count) as index:
            index.add([Document("secret", f"the word is {SECRET}")])
            index.purge()
            tracemalloc.start()
            index.delete([str(count // 2)])
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert len(index) == count
            assert {each.id for each in index.passages()} == {*map(str, range(count)), "secret"} - {str(count // 2)}
            index.delete(["secret"])
            assert not holding(index.folder)
            assert all(not each.dead for part in index._partitions for each in part.snapshot().segments)
    assert peaks[1] < 2 * peaks[0] + 500_000, "5 times the passages"


@pytest.mark.usefixtures("few_at_once")
def test_places_of_passages_are_told_once_each(tmp_path: Path) -> None:
    with index_of(tmp_path / "notes", 300) as index:
        index.add(Document(f"b{number}", "second segment") for number in range(100))
        state: Snapshot = index._partitions[0].snapshot()
        found = [passage.id for passage in state.passages()]
        assert len(found) == len(set(found)) == 400
