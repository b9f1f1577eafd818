"""The packed-weights cache: what is written is read, and nothing torn, stale or foreign is."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from packed_files import META, fill, leftovers, tensors

from miaotui.errors import CacheError, ModelNotFoundError
from miaotui.hub.formats.packed import PAGE_BYTES, align, read_packed, sample_checksum
from miaotui.hub.store import PackedStore, content_key


@pytest.fixture
def store(tmp_path: Path) -> PackedStore:
    return PackedStore(tmp_path / "packed")


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
