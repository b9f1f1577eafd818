"""The packed-weights cache: what is written is read, and nothing torn, stale or foreign is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from miaotui.errors import CacheError, ModelNotFoundError
from miaotui.hub.formats.packed import PAGE_BYTES, align, read_packed, sample_checksum
from miaotui.hub.store import PackedStore, content_key

META = {"format": "q4", "layout": 3, "names": ["甲", "b"]}


@pytest.fixture
def store(tmp_path: Path) -> PackedStore:
    return PackedStore(tmp_path / "packed")


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "layers.0.q": rng.integers(0, 255, (48, 4096), dtype=np.uint8),
        "norm": rng.standard_normal(576).astype(np.float32),
        "scalar": np.array(3.5, np.float32),
        "empty": np.empty((0, 4), np.int8),
        "scales": rng.standard_normal((9, 333)).astype(np.float16),
    }


def fill(store: PackedStore, key: str = "k") -> Path:
    with store.create(key, META) as writer:
        for name, array in tensors().items():
            writer.add(name, array)
    return store.path(key)


def leftovers(store: PackedStore) -> list[str]:
    return sorted(p.name for p in store.folder.iterdir() if p.name.endswith(".part"))


def test_arrays_and_meta_come_back(store: PackedStore) -> None:
    fill(store)
    packed = store.open("k")
    assert packed is not None
    assert dict(packed.meta) == META
    assert set(packed.arrays) == set(tensors())
    for name, array in tensors().items():
        assert packed.arrays[name].dtype == array.dtype
        assert packed.arrays[name].shape == array.shape
        np.testing.assert_array_equal(packed.arrays[name], array)
    assert packed.size_bytes == store.path("k").stat().st_size
    assert packed.verify()
    assert leftovers(store) == []


def test_reserved_views_are_filled_in_place(store: PackedStore) -> None:
    wanted = tensors()
    with store.create("k", META) as writer:
        views = {n: writer.reserve(n, a.shape, a.dtype) for n, a in wanted.items()}
        for name, view in views.items():
            view[...] = wanted[name]
        writer.add("last", np.arange(5000))
    packed = store.open("k")
    assert packed is not None
    assert packed.verify()
    for name, array in wanted.items():
        np.testing.assert_array_equal(packed.arrays[name], array)
    np.testing.assert_array_equal(packed.arrays["last"], np.arange(5000))


def test_systems_that_cannot_preallocate_write_zeros(store: PackedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    with store.create("k", META) as writer:
        for name, array in tensors().items():
            writer.reserve(name, array.shape, array.dtype)[...] = array
    packed = store.open("k")
    assert packed is not None
    assert packed.verify()


def test_large_tensors_lie_on_pages_and_small_ones_on_cache_lines(store: PackedStore) -> None:
    fill(store)
    packed = store.open("k")
    assert packed is not None
    for name, array in packed.arrays.items():
        step = PAGE_BYTES if tensors()[name].nbytes >= PAGE_BYTES else 64
        assert array.ctypes.data % step == 0 or array.size == 0
    assert align(1, 10) == 64
    assert align(1, PAGE_BYTES) == PAGE_BYTES


def test_arrays_are_read_only_and_outlive_close(store: PackedStore) -> None:
    fill(store)
    with store.open("k") as packed:  # type: ignore[union-attr]
        norm = packed.arrays["norm"]
        with pytest.raises(ValueError, match="read-only"):
            norm[0] = 1.0
        packed.advise()
    assert not packed.arrays
    np.testing.assert_array_equal(norm, tensors()["norm"])
    packed.close()


def test_strided_input_is_stored_in_order(store: PackedStore) -> None:
    array = np.arange(600, dtype=np.int32).reshape(20, 30).T[::2]
    with store.create("k", {}) as writer:
        writer.add("t", array)
    np.testing.assert_array_equal(store.open("k").arrays["t"], array)  # type: ignore[union-attr]


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda s: s.isprintable()),
        hnp.arrays(
            st.sampled_from([np.uint8, np.float16, np.int64, np.bool_]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=70),
        ),
        max_size=6,
    )
)
def test_any_arrays_round_trip(tmp_path_factory: pytest.TempPathFactory, arrays: dict) -> None:
    store = PackedStore(tmp_path_factory.mktemp("any"))
    with store.create("any", {}) as writer:
        for name, array in arrays.items():
            writer.add(name, array)
    packed = store.open("any")
    assert packed is not None
    assert packed.verify()
    for name, array in arrays.items():
        assert packed.arrays[name].tobytes() == array.tobytes()


def test_absent_is_none(store: PackedStore) -> None:
    assert store.open("nothing") is None


def test_a_file_of_another_key_is_none(store: PackedStore) -> None:
    os.replace(fill(store), store.path("other"))
    assert store.open("other") is None


@pytest.mark.parametrize("key", ["", "../up", "a/b", ".hidden", "x" * 129, "a b"])
def test_keys_cannot_leave_the_folder(store: PackedStore, key: str) -> None:
    with pytest.raises(CacheError, match="cannot name"):
        store.path(key)


def test_every_truncation_is_none(store: PackedStore) -> None:
    path = fill(store)
    whole = path.read_bytes()
    for size in [0, 1, 8, 63, 67, 68, 4095, 4096, 8192, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert store.open("k") is None, size
    path.write_bytes(whole + b"\0")
    assert store.open("k") is None
    path.write_bytes(whole)
    assert store.open("k") is not None


def test_any_changed_byte_of_preamble_and_table_is_none(store: PackedStore) -> None:
    path = fill(store)
    whole = path.read_bytes()
    table_offset = struct.unpack_from("<8sIIQ", whole)[3]
    places = [*range(68), *range(table_offset, len(whole), 7), len(whole) - 1]
    for place in places:
        torn = bytearray(whole)
        torn[place] ^= 0x40
        path.write_bytes(torn)
        assert store.open("k") is None, place


def test_a_changed_edge_of_any_tensor_is_none_and_a_changed_middle_fails_verify(store: PackedStore) -> None:
    path = fill(store)
    whole = path.read_bytes()
    for name, array in tensors().items():
        if not array.nbytes:
            continue
        start = whole.index(array.tobytes())
        for place in (start, start + array.nbytes - 1):
            torn = bytearray(whole)
            torn[place] ^= 1
            path.write_bytes(torn)
            assert store.open("k") is None, name
    torn = bytearray(whole)
    torn[whole.index(tensors()["layers.0.q"].tobytes()) + 3 * PAGE_BYTES] ^= 1
    path.write_bytes(torn)
    packed = store.open("k")
    assert packed is not None
    assert not packed.verify()


def test_a_tensor_of_zeroed_pages_is_none(store: PackedStore) -> None:
    """What a crash of the machine leaves of a file whose blocks never reached the disk."""
    path = fill(store)
    whole = bytearray(path.read_bytes())
    whole[PAGE_BYTES : 2 * PAGE_BYTES] = bytes(PAGE_BYTES)
    path.write_bytes(whole)
    assert store.open("k") is None


def forge(table: object, size_bytes: int = 3 * PAGE_BYTES) -> bytes:
    """A file whose every checksum is right, with a table of the caller's making."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    digest = hashlib.sha256(text).digest()
    head = struct.pack("<8sIIQQ32s", b"MIAOPACK", 1, len(text), size_bytes, size_bytes + len(text), digest)
    head += struct.pack("<I", zlib.crc32(head))
    return head.ljust(size_bytes, b"\0") + text


ZEROS = zlib.crc32(bytes(PAGE_BYTES))


@pytest.mark.parametrize(
    "row",
    [
        ["t", "|O", [2], 4096, 0, 0],
        ["t", "<f4", [2**40, 2**40], 4096, 0, 0],
        ["t", "<f4", [-1], 4096, 0, 0],
        ["t", "<f4", [True], 4096, 0, 0],
        ["t", "<f4", [1.5], 4096, 0, 0],
        ["t", "<f4", [1] * 9, 4096, 0, 0],
        ["t", "<f4", [1024], 0, 0, 0],
        ["t", "<f4", [1024], 4097, ZEROS, ZEROS],
        ["t", "<f4", [4097], 4096, 0, 0],
        ["t", "<f4", [1024], 2**70, ZEROS, ZEROS],
        ["t", "<f4", None, 4096, 0, 0],
        ["t", [], [1], 4096, 0, 0],
        [7, "<f4", [1024], 4096, ZEROS, ZEROS],
        ["t"],
        "row",
        None,
    ],
)
def test_forged_rows_are_none(tmp_path: Path, row: object) -> None:
    path = tmp_path / "f"
    path.write_bytes(forge({"key": "k", "meta": {}, "tensors": [row]}))
    assert read_packed(path, "k") is None


def test_forged_tables_are_none_and_a_right_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    good = ["t", "<f4", [1024], 4096, ZEROS, ZEROS]
    for table in ([], {}, {"key": "k"}, b"{", b"[" * 100_000, b"\xff", {"key": ["k"]}):
        path.write_bytes(forge(table))
        assert read_packed(path, "k") is None
    path.write_bytes(forge({"key": "k", "meta": {}, "tensors": [good, good]}))
    assert read_packed(path, "k") is None
    path.write_bytes(forge({"key": "k", "meta": {}, "tensors": [good]}))
    packed = read_packed(path, "k")
    assert packed is not None
    assert packed.arrays["t"].shape == (1024,)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_bytes_never_raise(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    base = tmp_path_factory.getbasetemp() / "damaged"
    store = PackedStore(base)
    path = store.path("k") if base.exists() else fill(store)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    other = base / "damaged"
    other.write_bytes(whole)
    packed = read_packed(other, "k")
    assert packed is None or set(packed.arrays) == set(tensors())


def test_a_folder_or_unreadable_file_in_its_place_is_none(store: PackedStore) -> None:
    store.path("k").mkdir(parents=True)
    assert store.open("k") is None


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


def test_content_key_sees_content_time_size_and_extra(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(bytes(3 * 2**20))
    os.utime(file, ns=(10**18, 10**18))
    first = content_key(file, {"format": "q4"})
    assert first == content_key(file, {"format": "q4"})
    assert len(first) == 40
    assert first != content_key(file, {"format": "q8"})
    os.utime(file, ns=(10**18, 10**18 + 1))
    assert first != content_key(file, {"format": "q4"})
    for place in (0, 3 * 2**20 - 1):
        data = bytearray(3 * 2**20)
        data[place] = 1
        file.write_bytes(data)
        os.utime(file, ns=(10**18, 10**18))
        assert first != content_key(file, {"format": "q4"})


def test_content_key_of_a_folder_counts_every_model_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no model files"):
        content_key(tmp_path, {})
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    first = content_key(tmp_path, {})
    (tmp_path / "README.md").write_text("x")
    assert first == content_key(tmp_path, {})
    (tmp_path / "tokenizer.json").write_text("{}")
    assert first != content_key(tmp_path, {})
    with pytest.raises(ModelNotFoundError, match="cannot read"):
        content_key(tmp_path / "absent", {})


def test_sample_checksum_reads_first_and_last_page() -> None:
    data = bytearray(range(256)) * 64
    whole = sample_checksum(memoryview(data))
    data[2 * PAGE_BYTES] ^= 1
    assert whole == sample_checksum(memoryview(data))
    data[-1] ^= 1
    assert whole != sample_checksum(memoryview(data))


def test_opening_a_large_file_costs_milliseconds(store: PackedStore) -> None:
    rows = np.ones((1, 330_000), np.uint8)
    with store.create("big", {}) as writer:
        for i in range(300):
            writer.add(f"layers.{i}.t", rows)
    best = 1.0
    for _ in range(5):
        start = time.perf_counter()
        packed = store.open("big")
        best = min(best, time.perf_counter() - start)
        assert packed is not None
        packed.close()
    assert best < 0.05, f"opening 99 MB took {best * 1e3:.1f} ms"
