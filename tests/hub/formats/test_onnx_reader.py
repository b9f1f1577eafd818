"""ONNX files as data: what they hold, what is refused by name, and whatever bytes they may hold instead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_bytes import Bert, attribute, block, model, node, number, tensor, varint

from miaotui.errors import ModelError, ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.onnx import OnnxTensor, parse_onnx, read_onnx
from miaotui.hub.formats.protobuf import WireReader, signed
from miaotui.hub.formats.tensors import ComputedTensor

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_everything_is_read(tmp_path: Path) -> None:
    value = tensor("", np.array([1, -1], np.int64))
    nodes = [
        node("Constant", [], ["shape"], value=value),
        node("Reshape", ["x", "shape"], ["y"], allowzero=0, axes=[1, -2], epsilon=0.5, mode="up"),
    ]
    extra = block(14, block(1, "key") + block(2, "value"))
    path = tmp_path / "m.onnx"
    path.write_bytes(model(nodes, [tensor("w", MATRIX)], ["x", "w"], ["y"], extra))
    graph = read_onnx(path)
    assert graph.inputs == ("x",)
    assert graph.outputs == ("y",)
    assert graph.metadata == {"key": "value"}
    assert graph.producer == "tests"
    np.testing.assert_array_equal(graph.constants["w"].data, MATRIX)
    np.testing.assert_array_equal(graph.constants["shape"].data, [1, -1])
    reshape = graph.nodes[1]
    assert (reshape.operator, reshape.inputs, reshape.outputs) == ("Reshape", ("x", "shape"), ("y",))
    assert reshape.attributes == {"allowzero": 0, "axes": (1, -2), "epsilon": 0.5, "mode": "up"}


@pytest.mark.parametrize("dtype", ["f4", "u1", "i1", "i4", "i8", "?", "f2", "f8"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4)])
def test_types_and_shapes(dtype: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(int(np.prod(shape))) % 2).reshape(shape).astype(dtype)
    graph = parse_onnx(model([], [tensor("w", array)], [], []), "m.onnx")
    found: OnnxTensor = graph.constants["w"]
    np.testing.assert_array_equal(found.data, array)
    assert found.data.dtype == array.dtype


@pytest.mark.parametrize("array", [MATRIX, np.array([[1, -2]], np.int64), np.array(7, np.int32)])
def test_numbers_written_one_by_one(array: np.ndarray) -> None:
    graph = parse_onnx(model([], [tensor("w", array, listed=True)], [], []), "m.onnx")
    np.testing.assert_array_equal(graph.constants["w"].data, array)


def with_tensor(content: bytes) -> bytes:
    return model([], [content], [], [])


REFUSED = {
    "external data": with_tensor(block(8, "w") + number(2, 1) + block(13, block(1, "location") + block(2, "/etc/x"))),
    "location": with_tensor(block(8, "w") + number(2, 1) + number(14, 1)),
    "custom operator": model([node("Attention", ["x"], ["y"], domain="com.microsoft")], [], ["x"], ["y"]),
    "strings": with_tensor(block(8, "w") + number(2, 8)),
    "bfloat16": with_tensor(block(8, "w") + number(2, 16)),
    "graphs inside": model([block(4, "If") + block(5, block(1, "then_branch") + block(6, b""))], [], [], []),
    "functions": model([], [], [], [], block(25, b"")),
    "training": model([], [], [], [], block(20, b"")),
    "segments": with_tensor(block(3, b"")),
    "one by one": with_tensor(number(1, 1 << 21) + number(2, 3) + block(5, bytes(1 << 21))),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_named(case: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        parse_onnx(REFUSED[case], "m.onnx")
    words = {"location": "external data", "training": "training information"}.get(case, case)
    assert words.split(" ")[0] in str(caught.value)
    assert "m.onnx" in str(caught.value)


CORRUPT = {
    "no graph": number(1, 8),
    "two graphs": number(1, 8) + block(7, b"") + block(7, b""),
    "short": with_tensor(number(1, 4) + number(2, 1) + block(8, "w") + block(9, bytes(12))),
    "vast": with_tensor(number(1, 1 << 39) * 3 + number(2, 1) + block(8, "w") + block(9, bytes(12))),
    "negative": with_tensor(number(1, -1) + number(2, 1) + block(8, "w") + block(9, b"")),
    "twice": model([], [tensor("w", MATRIX)] * 2, [], []),
    "dimensions": with_tensor(number(1, 1) * 9 + number(2, 1) + block(9, bytes(4))),
    "text": model([node("Add", ["x"], ["y"])[:-1] + b"\xff"], [], [], []),
    "wire": number(1, 8) + bytes([7 << 3 | 3]),
    "length": number(1, 8) + varint(7 << 3 | 2) + varint(1 << 60),
    "zip": b"PK\x03\x04" + bytes(40),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_what_cannot_be_right_is_an_error(case: str) -> None:
    with pytest.raises(ModelFormatError, match=r"m\.onnx"):
        parse_onnx(CORRUPT[case], "m.onnx")


def test_integers_of_every_length() -> None:
    reader = WireReader(b"", "x")
    for value in (0, 1, 127, 128, 300, 1 << 62, -1, -(1 << 63)):
        raw = number(1, value)
        reader = WireReader(raw, "x")
        (field,) = reader.fields(0, len(raw))
        assert signed(field.value) == value
    with pytest.raises(ModelFormatError, match="more than 10 bytes"):
        list(WireReader(b"\x08" + b"\xff" * 11, "x").fields(0, 12))


GOOD = Bert(layers=1, heads=1, hidden=32, ffn=32, vocabulary=8, positions=8).build() + attribute("x", 1)[:0]


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    cut=st.integers(0, len(GOOD)),
    flips=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=5),
)
def test_damaged_files_have_one_clear_error(cut: int, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(GOOD[: cut if cut % 4 == 0 else len(GOOD)])
    for place, value in flips:
        if place < len(damaged):
            damaged[place] = value
    message = "m.onnx"
    try:
        graph = parse_onnx(bytes(damaged), "m.onnx")
        assert sum(constant.data.nbytes for constant in graph.constants.values()) <= 8 * len(damaged)
    except ModelError as error:
        message = str(error)
    assert "m.onnx" in message


def test_computed_tensors_wait_until_they_are_read() -> None:
    calls: list[int] = []

    def read() -> np.ndarray:
        calls.append(1)
        return MATRIX

    stored = ComputedTensor("w", (2, 3), read)
    named = stored.renamed("v")
    assert (named.name, named.rows, named.cols, named.size_bytes) == ("v", 2, 3, 24)
    assert not calls
    np.testing.assert_array_equal(named.float32(), MATRIX)
    np.testing.assert_array_equal(named.take_rows(slice(1, 2)).float32(), MATRIX[1:])
    assert len(calls) == 1
