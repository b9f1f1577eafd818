"""Packed weights on a full disk, between several writers, and when old ones are removed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from packed_files import fill, leftovers

from miaotui.errors import CacheError
from miaotui.hub.store import PackedStore


@pytest.fixture
def store(tmp_path: Path) -> PackedStore:
    return PackedStore(tmp_path / "packed")


def test_an_error_in_the_block_leaves_nothing(store: PackedStore) -> None:
    class StopError(Exception):
        pass

    writer_block = store.create("k", {})
    with pytest.raises(StopError), writer_block as writer:  # noqa: PT012
        writer.add("t", np.zeros(10_000))
        raise StopError
    assert store.open("k") is None
    assert list(store.folder.iterdir()) == []


def test_misuse_is_refused(store: PackedStore) -> None:
    with store.create("twice", {}) as writer:
        writer.add("t", np.zeros(3))
        with pytest.raises(CacheError, match="packed twice"):
            writer.reserve("t", (3,), np.float32)
    store.path("twice").unlink()
    with pytest.raises(CacheError, match="has type object"), store.create("k", {}) as writer:
        writer.add("t", np.array([None]))
    with pytest.raises(CacheError, match="plain JSON"), store.create("k", {"m": {1, 2}}) as writer:
        writer.add("t", np.zeros(3))
    with pytest.raises(CacheError, match="plain JSON"), store.create("k", {"m": float("nan")}):
        pass
    assert list(store.folder.iterdir()) == []


def test_no_room_is_noticed_before_the_work(store: PackedStore) -> None:
    with (
        pytest.raises(CacheError, match=r"packing needs .* \(1000.0 TB\).*MIAOTUI_HOME"),
        store.create("k", {}, expected_bytes=10**15),
    ):
        raise AssertionError("the block must not run")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = PackedStore(tmp_path / "file" / "packed")
    with pytest.raises(CacheError, match=r"file.*MIAOTUI_HOME"), store.create("k", {}):
        pass


FULL_DISK = """
import resource, sys, numpy as np
from pathlib import Path
from miaotui.errors import CacheError
from miaotui.hub.store import PackedStore
store = PackedStore(Path(sys.argv[1]))
with store.create("old", {}) as writer:
    writer.add("t", np.ones(1000, np.uint8))
if sys.argv[3] == 'limit':
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
try:
    with store.create("k", {}) as writer:
        for i in range(100):
            if sys.argv[2] == "add":
                writer.add(f"t{i}", np.ones(100_000, np.uint8))
            else:
                writer.reserve(f"t{i}", (100_000,), np.uint8)[...] = 1
except CacheError as error:
    print(error)
print(sorted(p.name for p in store.folder.iterdir()), store.open("old") is not None)
"""


def run_until_full(folder: Path, how: str, limit: str) -> None:
    """Write past ``limit`` in another process; see one clear error, no partial file, the old file
    whole.
    """
    command = [sys.executable, "-c", FULL_DISK, str(folder), how, limit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    message, rest = done.stdout.splitlines()
    assert f"no room to write in {folder}" in message
    assert re.search(r"1,\d{3},\d{3} bytes \(1\.\d MB\) are needed", message)
    assert "MIAOTUI_HOME" in message
    assert rest == "['old.packed'] True"


@pytest.mark.parametrize("how", ["add", "reserve"])
def test_a_file_size_limit_ends_in_one_error(tmp_path: Path, how: str) -> None:
    run_until_full(tmp_path, how, "limit")


@pytest.mark.parametrize("how", ["add", "reserve"])
def test_a_full_disk_ends_in_one_error(tmp_path: Path, how: str) -> None:
    """On a real file system of 1 MiB where one may be mounted, else again under a size limit."""
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    mounted = shutil.which("mount") is not None and subprocess.call(command) == 0
    try:
        run_until_full(tmp_path, how, "disk" if mounted else "limit")
    finally:
        if mounted:
            subprocess.run(["umount", str(tmp_path)], check=True, timeout=10)


WRITER = """
import sys, numpy as np
from pathlib import Path
from miaotui.hub.store import PackedStore
store = PackedStore(Path(sys.argv[1]))
mark = int(sys.argv[2])
for _ in range(5):
    with store.create("k", {"mark": mark}) as writer:
        for i in range(4):
            writer.add(f"t{i}", np.full(50_000, mark, np.uint8))
"""


def test_concurrent_writers_leave_one_whole_file_and_readers_never_see_less(store: PackedStore) -> None:
    command = [sys.executable, "-c", WRITER, str(store.folder)]
    writers = [subprocess.Popen([*command, str(mark)]) for mark in (1, 2, 3)]
    seen = 0
    while any(w.poll() is None for w in writers):
        packed = store.open("k")
        if packed is not None:
            mark = packed.meta["mark"]
            assert all((a == mark).all() for a in packed.arrays.values())
            seen += 1
        else:
            assert seen == 0, "a published file vanished"
        time.sleep(0.002)
    assert [w.wait() for w in writers] == [0, 0, 0]
    last = store.open("k")
    assert last is not None
    assert last.verify()
    assert leftovers(store) == []


def test_a_killed_writer_leaves_nothing_that_counts_and_is_cleaned_up(store: PackedStore) -> None:
    script = (
        "import sys, time, numpy as np\n"
        "from pathlib import Path\n"
        "from miaotui.hub.store import PackedStore\n"
        "with PackedStore(Path(sys.argv[1])).create('k', {}) as writer:\n"
        "    writer.add('t', np.ones(9000))\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(store.folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (part,) = store.folder.glob(".*.part")
        os.utime(part, (1, 1))
        fill(store, "while-alive")
        assert part.exists(), "a living writer's file was taken away"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert store.open("k") is None
    assert part.exists()
    fill(store, "after")
    assert not part.exists()


def test_a_young_partial_file_is_left_alone(store: PackedStore) -> None:
    fill(store)
    young = store.folder / ".other.1234.part"
    young.write_bytes(b"x")
    fill(store, "again")
    assert young.exists()


def test_prune_removes_the_least_recently_opened(store: PackedStore) -> None:
    paths = {key: fill(store, key) for key in ("a", "b", "c")}
    size = paths["a"].stat().st_size
    for age, key in enumerate(("c", "b", "a")):
        os.utime(paths[key], (1000 - age, 1000 - age))
    assert store.open("a") is not None  # now the youngest
    assert store.prune(3 * size) == 0
    assert store.prune(2 * size) == size
    assert {k for k, p in paths.items() if p.exists()} == {"a", "c"}
    assert store.prune(0, keep=("a",)) == size
    assert store.open("a") is not None


def test_a_pruned_file_stays_readable_for_who_has_it_open(store: PackedStore) -> None:
    fill(store)
    packed = store.open("k")
    assert packed is not None
    store.prune(0)
    assert store.open("k") is None
    assert packed.verify()


def test_the_bound_is_kept_after_each_new_file(tmp_path: Path) -> None:
    size = fill(PackedStore(tmp_path), "first").stat().st_size
    store = PackedStore(tmp_path, max_bytes=size + 10)
    fill(store, "second")
    assert store.open("first") is None
    assert store.open("second") is not None
