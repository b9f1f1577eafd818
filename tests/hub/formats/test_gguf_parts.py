"""GGUF models in several files: read as one, and refused when parts are missing or mixed."""

from __future__ import annotations

import functools
import struct
from pathlib import Path

import gguf
import pytest
from gguf_bytes import STRING, U32, Gguf, Tensor, text, u32
from hypothesis import given
from hypothesis import strategies as st

from miaotui.errors import MiaotuiError, ModelFormatError, ModelNotFoundError
from miaotui.hub.formats.gguf import read_gguf
from miaotui.hub.parts import first_parts, part_names
from miaotui.hub.store import content_key
from miaotui.model.reading.files import open_model
from tiny_models import make_tiny_gguf

U16 = 2


def u16(value: int) -> bytes:
    return struct.pack("<H", value)


def part(number: int, count: int, total: int, *names: str) -> bytes:
    """One part with a vector of four floats for each name."""
    keys: list[tuple[str | bytes, int, bytes]] = [
        ("split.no", U16, u16(number)),
        ("split.count", U16, u16(count)),
        ("split.tensors.count", U32, u32(total)),
    ]
    if number == 0:
        keys.insert(0, ("general.architecture", STRING, text("llama")))
    tensors = [Tensor(name, (4,), 0, 32 * index) for index, name in enumerate(names)]
    data = b"".join(struct.pack("<4f", *range(number, number + 4)).ljust(32, b"\0") for _ in names)
    return Gguf(keys=keys, tensors=tensors, data=data).build()


def store(folder: Path, *parts: bytes) -> Path:
    for index, data in enumerate(parts):
        (folder / f"m-{index + 1:05}-of-{len(parts):05}.gguf").write_bytes(data)
    return folder / f"m-00001-of-{len(parts):05}.gguf"


def test_all_parts_are_read_from_the_name_of_any(tmp_path: Path) -> None:
    first = store(tmp_path, part(0, 3, 4, "a", "b"), part(1, 3, 4, "c"), part(2, 3, 4, "d"))
    for path in (first, tmp_path / "m-00003-of-00003.gguf"):
        with read_gguf(path) as file:
            assert list(file.tensors) == ["a", "b", "c", "d"]
            assert file.tensors["d"].float32().tolist() == [2, 3, 4, 5]
            assert file.metadata["general.architecture"] == "llama"


def test_a_model_in_parts_opens_as_the_whole_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_tiny_gguf(tmp_path, "llama")
    monkeypatch.setattr("gguf.GGUFWriter", functools.partial(gguf.GGUFWriter, split_max_tensors=7))
    (tmp_path / "split").mkdir()
    make_tiny_gguf(tmp_path / "split", "llama")
    parts = sorted((tmp_path / "split").glob("*.gguf"))
    assert len(parts) > 2
    with open_model(whole) as one, open_model(parts[0]) as many:
        assert many.config == one.config
        assert list(many.tensors) == list(one.tensors)
        for name, tensor in one.tensors.items():
            assert (many.tensors[name].float32() == tensor.float32()).all()


def test_a_change_of_a_later_part_changes_the_key(tmp_path: Path) -> None:
    first = store(tmp_path, part(0, 2, 2, "a"), part(1, 2, 2, "b"))
    before = content_key(first, {})
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(part(1, 2, 2, "c"))
    assert content_key(first, {}) != before


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    first = store(tmp_path, part(0, 2, 2, "a"), part(1, 2, 2, "b"))
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(ModelNotFoundError, match=r"missing: m-00002-of-00002\.gguf"):
        read_gguf(first)


@pytest.mark.parametrize(
    "second",
    [part(1, 2, 2, "a"), part(0, 2, 2, "b"), part(1, 3, 2, "b"), part(1, 2, 2, "b", "c")],
    ids=["a tensor twice", "the same number", "another count", "too many tensors"],
)
def test_mixed_parts_are_refused(tmp_path: Path, second: bytes) -> None:
    first = store(tmp_path, part(0, 2, 2, "a"), second)
    with pytest.raises(ModelFormatError, match=r"mixed; download all of them again"):
        read_gguf(first)


def test_a_part_under_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "whole.gguf").write_bytes(part(0, 2, 2, "a"))
    with pytest.raises(ModelFormatError, match="one of 2 parts, and its name says 1"):
        read_gguf(tmp_path / "whole.gguf")


@given(st.from_regex(r"\A[a-z]{1,3}-[0-9]{5}-of-[0-9]{5}\.gguf\Z"))
def test_every_count_is_bounded(name: str) -> None:
    try:
        names = part_names(name)
    except MiaotuiError:
        return
    assert name in names
    assert first_parts(names) == [names[0]]
