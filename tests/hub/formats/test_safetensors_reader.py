"""safetensors files: read as the reference library wrote them, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import deserialize
from safetensors.numpy import save_file

from miaotui.errors import ModelError, ModelFormatError, ModelNotFoundError, UnsupportedModelError
from miaotui.hub.formats.safetensors import parse_safetensors, read_safetensors
from miaotui.hub.formats.tensors import BlockType, StoredTensor


def encode(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: str = "F32", shape: Any = (2,), span: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": span}


def write(path: Path, **arrays: np.ndarray) -> None:
    save_file(arrays, path)


def ones(n: int) -> np.ndarray:
    return np.ones(n, np.float32)


def test_reads_what_the_reference_library_wrote(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    rng = np.random.default_rng(0)
    arrays = {
        "matrix": rng.standard_normal((3, 5), np.float32),
        "half": rng.standard_normal((2, 3)).astype(np.float16),
        "scalar": np.array(2.5, np.float32),
        "cube": rng.standard_normal((2, 2, 2), np.float32),
    }
    save_file(arrays, path, metadata={"format": "pt"})
    tensors = read_safetensors(path)
    assert set(tensors) == set(arrays)
    for name, array in arrays.items():
        decoded = tensors[name].float32()
        np.testing.assert_array_equal(decoded.reshape(array.shape), array.astype(np.float32))
    assert tensors["half"].kind is BlockType.F16
    assert tensors["half"].shape == (2, 3)
    assert tensors["scalar"].shape == (1,)
    assert tensors["cube"].rows == 4
    assert not tensors["matrix"].data.flags.owndata


def test_bfloat16() -> None:
    bits = np.array([[0x3F80, 0xBF80], [0x4049, 0x0001]], np.uint16)
    content = encode({"w": entry("BF16", (2, 2), (0, 8))}, bits.tobytes())
    ((name, reference),) = deserialize(content)
    tensor = parse_safetensors(content, "m.safetensors")[name]
    assert tensor.data.tobytes() == bytes(reference["data"])
    assert tensor.kind is BlockType.BF16
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(tensor.float32(), expected)
    np.testing.assert_array_equal(tensor.take_rows([1]).float32(), expected[1:])


def shard(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_reads_shards_through_the_index(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", x=ones(2), unlisted=ones(3))
    write(tmp_path / "b.safetensors", y=2 * ones(2))
    shard(tmp_path, {"y": "b.safetensors", "x": "a.safetensors"})
    tensors = read_safetensors(tmp_path)
    assert {name: tensor.float32().tolist() for name, tensor in tensors.items()} == {"x": [1, 1], "y": [2, 2]}


def test_a_single_file_goes_before_an_index(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", x=ones(2))
    shard(tmp_path, {"y": "absent.safetensors"})
    assert list(read_safetensors(tmp_path)) == ["x"]


def test_a_folder_of_one_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="0 safetensors files"):
        read_safetensors(tmp_path)
    write(tmp_path / "odd name.safetensors", x=ones(2))
    assert list(read_safetensors(tmp_path)) == ["x"]
    write(tmp_path / "another.safetensors", x=ones(2))
    with pytest.raises(ModelNotFoundError, match="2 safetensors files"):
        read_safetensors(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "sub/x.safetensors",
        "sub\\x.safetensors",
        "C:x.safetensors",
        "x\0.safetensors",
        "\x1b[2J.safetensors",
        "\ud800.safetensors",
        "model.bin",
        "..",
        "",
        7,
        None,
        ["x.safetensors"],
    ],
)
def test_an_index_stays_in_its_folder(tmp_path: Path, name: Any) -> None:
    write(tmp_path / "secret.safetensors", x=ones(2))
    folder = tmp_path / "model"
    folder.mkdir()
    shard(folder, {"x": name})
    with pytest.raises(ModelFormatError, match="of its own folder"):
        read_safetensors(folder)


def test_an_index_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    shard(tmp_path, {"x": "a.safetensors"})
    with pytest.raises(ModelNotFoundError, match=r"no file .*a\.safetensors"):
        read_safetensors(tmp_path)
    write(tmp_path / "a.safetensors", y=ones(2))
    with pytest.raises(ModelFormatError, match="which lacks it"):
        read_safetensors(tmp_path)
    for weight_map in ({}, [], None, {f"t{i}": f"{i}.safetensors" for i in range(1025)}):
        shard(tmp_path, weight_map)
        with pytest.raises(ModelFormatError, match=r"index\.json"):
            read_safetensors(tmp_path)


CORRUPT = {
    "empty": (b"", "not a safetensors file"),
    "short": (bytes(5), "not a safetensors file"),
    "length": (encode({}, length=2**63), "claims a header of 9223372036854775808"),
    "length beyond the file": (encode({}, length=3), "claims a header of 3"),
    "JSON": (encode(b"{,}"), "not valid JSON"),
    "not UTF-8": (encode(b'{"\xff":1}'), "not valid JSON"),
    "two objects": (encode(b"{}{}"), "not valid JSON"),
    "deep": (encode(b'{"a":' + b"[" * 10**6), "not valid JSON"),
    "long integer": (encode(b'{"a":' + b"9" * 10**6 + b"}"), "1000000 digits"),
    "NaN": (encode(b'{"a":NaN}'), "NaN"),
    "key twice": (encode(b'{"a":1,"a":2}'), "'a' occurs twice"),
    "metadata": (encode({"__metadata__": {"a": 1}}), "'__metadata__'"),
    "metadata list": (encode({"__metadata__": []}), "'__metadata__'"),
    "no object": (encode({"x": 1}), "needs exactly"),
    "missing field": (encode({"x": {"dtype": "F32", "shape": [2]}}), "needs exactly"),
    "more fields": (encode({"x": entry() | {"y": 1}}, bytes(8)), "needs exactly"),
    "dtype": (encode({"x": entry(dtype=1)}, bytes(8)), "malformed"),  # type: ignore[arg-type]
    "shape": (encode({"x": entry(shape="2")}, bytes(8)), "malformed"),
    "negative": (encode({"x": entry(shape=[-2])}, bytes(8)), "malformed"),
    "fraction": (encode({"x": entry(shape=[2.0])}, bytes(8)), "malformed"),
    "truth": (encode({"x": entry(shape=[True])}, bytes(8)), "malformed"),
    "dimension 0": (encode({"x": entry(shape=[0], span=[0, 0])}), "each at least 1"),
    "overflow": (encode({"x": entry(shape=[2**62, 2**62], span=[0, 0])}), "takes"),
    "span": (encode({"x": entry(span=[0, 4])}, bytes(4)), "takes 8 bytes"),
    "span reversed": (encode({"x": entry(span=[8, 0])}, bytes(8)), "takes 8 bytes"),
    "span of three": (encode({"x": entry(span=[0, 8, 8])}, bytes(8)), "takes 8 bytes"),
    "hole": (encode({"x": entry(span=[8, 16])}, bytes(16)), "starts at 8, not at 0"),
    "overlap": (encode({"x": entry(), "y": entry(span=[4, 12])}, bytes(12)), "starts at 4"),
    "same place": (encode({"x": entry(), "y": entry()}, bytes(8)), "starts at 0, not at 8"),
    "truncated": (encode({"x": entry()}, bytes(7)), "holds 7 bytes of tensors"),
    "trailing": (encode({"x": entry()}, bytes(9)), "holds 9 bytes of tensors"),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_corrupt_files_are_refused(case: str) -> None:
    content, message = CORRUPT[case]
    with pytest.raises(ModelFormatError, match=message) as error:
        parse_safetensors(content, "m.safetensors")
    assert "m.safetensors" in str(error.value)
    assert "download it again" in str(error.value)
    assert len(str(error.value)) < 500


def test_other_types_are_named() -> None:
    with pytest.raises(UnsupportedModelError, match="'q' is of type I32; expected F32, F16 or BF16"):
        parse_safetensors(encode({"q": entry("I32")}, bytes(8)), "m.safetensors")


VALID = encode({"__metadata__": {"a": "b"}, "x": entry(), "y": entry("BF16", (2, 3), (8, 20))}, bytes(20))


def use(content: bytes) -> None:
    """Read everything that a file holds; only a `ModelError` may come out."""
    try:
        tensors: dict[str, StoredTensor] = parse_safetensors(content, "m.safetensors")
    except ModelError:
        return
    for tensor in tensors.values():
        assert tensor.float32().size * tensor.kind.block_bytes == tensor.size_bytes


@given(st.integers(0, len(VALID) - 1), st.binary(max_size=4), st.integers(0, 4))
def test_mutated_files_fail_cleanly(at: int, new: bytes, removed: int) -> None:
    use(VALID[:at] + new + VALID[at + removed :])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I8"]) | JSON,
        "shape": st.lists(st.integers(-1, 5), max_size=5) | JSON,
        "data_offsets": st.lists(st.integers(0, 40), min_size=2, max_size=2) | JSON,
    }
)


@given(st.dictionaries(st.text(max_size=4), ENTRIES | JSON, max_size=3), st.integers(0, 40))
def test_random_headers_fail_cleanly(header: dict[str, Any], size: int) -> None:
    use(encode(header, bytes(size)))
