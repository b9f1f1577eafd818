"""Indexes of a server are free for other processes soon after they were changed, and when it stops."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from miaotui.errors import IndexBusyError
from miaotui.retrieval import Document, Index
from miaotui.serve.documents.index_registry import IndexRegistry
from miaotui.serve.middleware.keys import ANYONE

WRITES = """
import sys
from pathlib import Path
from miaotui.retrieval import Document, Index
with Index.open(Path(sys.argv[1])) as index:
    index.add([Document("elsewhere", "written by another process")])
"""


def write_elsewhere(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WRITES, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def wait_until_free(folder: Path) -> None:
    end_s = time.monotonic() + 10
    with Index.open(folder) as other:
        while time.monotonic() < end_s:
            try:
                other.delete(["nothing"])
            except IndexBusyError:
                time.sleep(0.01)
            else:
                return
    raise AssertionError("the shelf has not let go of it")


def test_another_process_writes_after_a_pause_and_the_shelf_again(tmp_path: Path) -> None:
    shelf = IndexRegistry(tmp_path, idle_s=0.2)
    index = shelf.to_change(ANYONE, "pets", make=True)
    index.add([Document("1", "cats")])
    wait_until_free(tmp_path / "pets")
    done = write_elsewhere(tmp_path / "pets")
    assert done.returncode == 0, done.stderr
    shelf.to_change(ANYONE, "pets").add([Document("2", "dogs")])
    assert len(shelf.to_search(ANYONE, "pets")) == 3
    wait_until_free(tmp_path / "pets")
    shelf.close()


def test_what_is_being_changed_is_kept(tmp_path: Path) -> None:
    shelf = IndexRegistry(tmp_path, idle_s=3600.0)
    shelf.to_change(ANYONE, "pets", make=True).add([Document("1", "cats")])
    done = write_elsewhere(tmp_path / "pets")
    assert done.returncode != 0
    assert "IndexBusyError" in done.stderr
    shelf.close()
    with Index.open(tmp_path / "pets") as other:
        assert other.add([Document("2", "dogs")]) == 1


def test_many_changes_in_turn_lose_nothing(tmp_path: Path) -> None:
    shelf, other = IndexRegistry(tmp_path, idle_s=0.0), None
    added = refused = 0
    for number in range(30):
        shelf.to_change(ANYONE, "pets", make=True)
        other = other or Index.open(tmp_path / "pets")
        for writer in (shelf.to_change(ANYONE, "pets"), other):
            try:
                added += writer.add([Document(f"{number}-{id(writer)}", "cats")])
            except IndexBusyError:
                refused += 1
        other.release()
    assert added + refused == 60
    assert added >= 30
    shelf.close()
    with Index.open(tmp_path / "pets") as index:
        assert len(index) == added


def test_a_closed_shelf_leaves_no_writer(tmp_path: Path) -> None:
    shelf = IndexRegistry(tmp_path)
    for name in ("a", "b"):
        shelf.to_change(ANYONE, name, make=True).add([Document("1", "cats")])
    shelf.close()
    for name in ("a", "b"):
        with Index.open(tmp_path / name) as index:
            assert index.release()
            assert index.add([Document("2", "dogs")]) == 1
    with pytest.raises(IndexBusyError):
        _both_at_once(tmp_path / "a")


def _both_at_once(folder: Path) -> None:
    with Index.open(folder) as first, Index.open(folder) as second:
        first.add([Document("3", "mice")])
        second.add([Document("4", "rats")])
