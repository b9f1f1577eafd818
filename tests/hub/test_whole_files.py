"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

import pytest

from miaotui.errors import CacheError
from miaotui.hub.files import write_whole


def fails(file: IO[bytes]) -> None:
    file.write(b"half")
    raise OSError(28, "no space left")


def stops(file: IO[bytes]) -> None:
    file.write(b"half")
    raise KeyboardInterrupt


def test_a_file_has_its_name_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "head.json"
    write_whole(path, "the head", lambda file: file.write(b"one"))
    write_whole(path, "the head", lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["head.json"]


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "head.json"
    path.write_bytes(b"old")
    with pytest.raises(CacheError, match=r"the head cannot be written to .*head\.json: .*no space left"):
        write_whole(path, "the head", fails)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, "the head", stops)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["head.json"]


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="none"):
        write_whole(tmp_path / "none" / "head.json", "the head", lambda file: file.write(b"x"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_others_may_read_it_as_the_user_mask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "head.json", "the head", lambda file: file.write(b"x"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "head.json").stat().st_mode) == 0o644
