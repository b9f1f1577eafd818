"""Sealed files and cells: what a thief of the disk finds, and what a changed byte does."""

from __future__ import annotations

import base64
import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.errors import CacheError, EncryptionKeyError, RequestError
from miaotui.sealing import sealed_file
from miaotui.sealing.cells import CellCipher, begin_cells, is_sealed, open_cells, rewrap_cells
from miaotui.sealing.master_keys import MasterKey, MasterKeys, add_master_key, read_key_file
from miaotui.sealing.memory_folder import VARIABLE, MemoryFolder
from miaotui.sealing.sealed_file import MARK, read_sealed, rewrap, write_sealed

KEYS = MasterKeys(MasterKey(b"a" * 32))
OTHER = MasterKeys(MasterKey(b"b" * 32))


def whole(path: Path, keys: MasterKeys = KEYS, context: str = "here") -> bytes:
    return b"".join(read_sealed(path, keys, context))


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 1000])
def test_what_was_written_is_read_and_is_not_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(sealed_file, "CHUNK_BYTES", 64)
    data = os.urandom(size)
    write_sealed(tmp_path / "f", [data[:10], data[10:]], KEYS, "here")
    assert whole(tmp_path / "f") == data
    assert size < 8 or data[:8] not in (tmp_path / "f").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_equal_contents_look_different(tmp_path: Path) -> None:
    for name in ("f", "g"):
        write_sealed(tmp_path / name, [b"x" * 100], KEYS, "here")
    assert (tmp_path / "f").read_bytes()[len(MARK) + 8 :] != (tmp_path / "g").read_bytes()[len(MARK) + 8 :]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_change_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("changed") / "f"
    write_sealed(path, [b"y" * 50], KEYS, "here")
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path.write_bytes(content)
    with pytest.raises(EncryptionKeyError):
        whole(path)


def test_every_byte_of_the_head_counts(tmp_path: Path) -> None:
    """The size of chunks as well, which a file of one chunk does not need to be read."""
    path = tmp_path / "f"
    write_sealed(path, [b"y" * 50], KEYS, "here")
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(EncryptionKeyError):
            whole(path)


def test_chunks_can_neither_be_cut_off_nor_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_file, "CHUNK_BYTES", 32)
    path = tmp_path / "f"
    write_sealed(path, [b"1" * 32 + b"2" * 32 + b"3" * 32], KEYS, "here")
    content = path.read_bytes()
    head, sealed = len(content) - 3 * 48, 48
    chunks = [content[head + n * sealed : head + (n + 1) * sealed] for n in range(3)]
    for order in ((0, 1), (1, 0, 2), (0, 1, 2, 2), (0, 2), ()):
        path.write_bytes(content[:head] + b"".join(chunks[n] for n in order))
        with pytest.raises(EncryptionKeyError):
            whole(path)


def test_a_wrong_key_and_a_wrong_place_are_one_clear_error(tmp_path: Path) -> None:
    write_sealed(tmp_path / "f", [b"secret"], KEYS, "here")
    with pytest.raises(EncryptionKeyError, match=f"{KEYS.current.id.hex()}.*{OTHER.current.id.hex()}"):
        whole(tmp_path / "f", OTHER)
    with pytest.raises(EncryptionKeyError, match="another file"):
        whole(tmp_path / "f", context="there")


def test_the_master_key_can_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_sealed(path, [b"secret" * 1000], KEYS, "here")
    before = path.read_bytes()
    both = MasterKeys(OTHER.current, (KEYS.current,))
    assert whole(path, both) == b"secret" * 1000
    assert rewrap(path, both, "here")
    assert not rewrap(path, both, "here")
    assert whole(path, OTHER) == b"secret" * 1000
    assert path.read_bytes()[-6000:] == before[-6000:], "contents are not encrypted again"
    with pytest.raises(EncryptionKeyError):
        whole(path, KEYS)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_sealed(path, [b"before"], KEYS, "here")

    def parts() -> object:
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(CacheError, match="no room"):
        write_sealed(path, parts(), KEYS, "here")  # type: ignore[arg-type]
    assert whole(path) == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["f"]


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    first = add_master_key(path)
    second = add_master_key(path)
    found = read_key_file(path)
    assert (found.current, tuple(found.earlier)) == (second, (first,))
    assert path.stat().st_mode & 0o077 == 0
    assert "secret" not in repr(found).lower().replace(path.name, "")
    assert base64.b64encode(first.secret).decode() not in repr(found)
    for text in ("", "abc", "# nothing", base64.b64encode(b"x" * 31).decode(), "é"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RequestError, match="key"):
            read_key_file(path)


def test_keys_of_the_environment() -> None:
    key = base64.b64encode(b"k" * 32).decode()
    assert MasterKeys.from_env({}) is None
    assert MasterKeys.from_env({"MIAOTUI_ENCRYPTION_KEY": key}) == MasterKeys(MasterKey(b"k" * 32))
    with pytest.raises(RequestError, match="both"):
        MasterKeys.from_env({"MIAOTUI_ENCRYPTION_KEY": key, "MIAOTUI_ENCRYPTION_KEY_FILE": "x"})
    with pytest.raises(EncryptionKeyError, match="MIAOTUI_ENCRYPTION_KEY_FILE"):
        MasterKeys.required("it", {})


def test_cells_open_in_their_own_place_alone() -> None:
    cipher = CellCipher(b"d" * 32)
    cell = cipher.seal(b"text", b"row 1")
    assert cipher.open(cell, b"row 1") == b"text"
    for wrong, place in ((cell, b"row 2"), (cell[:-1], b"row 1"), (b"", b"row 1")):
        with pytest.raises(EncryptionKeyError):
            cipher.open(wrong, place)
    assert cipher.blind(b"question") == cipher.blind(b"question") != CellCipher(b"e" * 32).blind(b"question")
    assert 0 <= cipher.blind_number(-5) < 1 << 63


def test_a_databases_key_is_wrapped_and_can_be_wrapped_anew() -> None:
    db = sqlite3.connect(":memory:")
    assert not is_sealed(db)
    with db:
        cell = begin_cells(db, KEYS, "answers").seal(b"text", b"")
    both = MasterKeys(OTHER.current, (KEYS.current,))
    assert rewrap_cells(db, both, "answers", "it")
    assert open_cells(db, OTHER, "answers", "it").open(cell, b"") == b"text"
    with pytest.raises(EncryptionKeyError):
        open_cells(db, KEYS, "answers", "it")


def test_folders_in_memory_go_with_their_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    folder = MemoryFolder()
    (folder.path / "x").write_text("plain")
    assert folder.path.stat().st_mode & 0o077 == 0
    left = tmp_path / "miaotui-sealed-0123"  # of a process that was killed: its lock is free
    left.mkdir()
    (left / "owner.lock").touch()
    other = MemoryFolder()
    assert not left.exists()
    assert folder.path.exists()
    folder.remove()
    other.remove()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    with pytest.raises(CacheError, match=VARIABLE):
        MemoryFolder()
