"""GGUF files: read as their writer meant them, or refused with a message that helps."""

from __future__ import annotations

import gc
import os
import tracemalloc
import weakref
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_bytes import ARRAY, BOOL, STRING, U8, U32, Gguf, Tensor, sample, strings, text, u32, u64

from miaotui.errors import ModelError, ModelFormatError, ModelNotFoundError, UnsupportedModelError
from miaotui.hub.formats.gguf import GgufFile, parse_gguf, read_gguf
from miaotui.hub.formats.tensors import BlockType


def parse(file: Gguf) -> GgufFile:
    return parse_gguf(file.build(), "model.gguf")


def with_key(kind: int, value: bytes) -> Gguf:
    return Gguf(keys=[("some.key", kind, value)])


def with_tensors(*tensors: Tensor, data: bytes = bytes(256)) -> Gguf:
    return Gguf(tensors=list(tensors), data=data)


def test_reads_what_the_reference_writer_wrote(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((3, 64), np.float32)
    vector = rng.standard_normal(5).astype(np.float32)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    writer.add_uint32("u32", 2**32 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int8("i8", -128)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "秒推\0")
    writer.add_array("texts", ["a", "", "秒" * 100])
    writer.add_array("integers", [1, -2, 3])
    writer.add_array("truths", [True, False])
    writer.add_tensor("vector", vector)
    writer.add_tensor("half", matrix.astype(np.float16))
    q8 = gguf.quants.quantize(matrix, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("matrix", q8, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with read_gguf(path) as file:
        metadata = dict(file.metadata)
        assert metadata.pop("general.architecture") == "llama"
        assert metadata.pop("integers").tolist() == [1, -2, 3]
        assert metadata.pop("truths").tolist() == [True, False]
        assert metadata == {
            "general.alignment": 64,
            "u32": 2**32 - 1,
            "i64": -(2**63),
            "u64": 2**64 - 1,
            "i8": -128,
            "f64": 0.1,
            "yes": True,
            "text": "秒推\0",
            "texts": ["a", "", "秒" * 100],
        }
        assert type(file.metadata["yes"]) is bool
        assert type(file.metadata["u32"]) is int
        assert list(file.tensors) == ["vector", "half", "matrix"]
        assert file.tensors["vector"].shape == (5,)
        assert file.tensors["vector"].data.shape == (1, 20)
        np.testing.assert_array_equal(file.tensors["vector"].float32(), vector)
        np.testing.assert_array_equal(file.tensors["half"].float32(), matrix.astype(np.float16).astype(np.float32))
        assert file.tensors["matrix"].kind is BlockType.Q8_0
        assert file.tensors["matrix"].shape == (3, 64)
        np.testing.assert_array_equal(file.tensors["matrix"].data, q8)


@pytest.mark.parametrize("version", [2, 3])
def test_reads_the_sample(version: int) -> None:
    file = parse(replace(sample(), version=version))
    assert file.version == version
    assert file.metadata["tokenizer.ggml.tokens"] == ["<s>", "", "a", "Ġ秒"]
    assert file.metadata["tokenizer.ggml.scores"].tolist() == [0.5, -1.0]
    assert file.tensors["embed"].data.tobytes() == bytes(range(128, 164))
    assert file.tensors["bias"].data.tobytes() == bytes(range(192, 200))


def test_tensors_outlive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(sample().build())
    file = read_gguf(path)
    embed = file.tensors["embed"]
    mapping = embed.data
    while isinstance(mapping.base, np.ndarray):
        mapping = mapping.base
    alive = weakref.ref(mapping)
    file.close()
    del mapping, file
    assert embed.data.tobytes() == bytes(range(128, 164))
    del embed
    gc.collect()
    assert alive() is None


def test_tensors_are_read_only_views() -> None:
    tensor = parse(sample()).tensors["embed"]
    assert not tensor.data.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        tensor.data[0, 0] = 1


def test_every_truncation_is_refused() -> None:
    whole = sample().build()
    for size in range(len(whole)):
        with pytest.raises(ModelFormatError, match=r"m\.gguf.*(download|get the model)"):
            parse_gguf(whole[:size], "m.gguf")


CORRUPT = {
    "tensor count": (Gguf(n_tensors=2**63), "claims 9223372036854775808 tensors"),
    "tensor count beyond the file": (Gguf(n_tensors=100), "list of 100 tensors takes 3200 bytes"),
    "key count": (Gguf(n_keys=2**17), "claims 131072 metadata keys"),
    "key length": (Gguf(keys=[(b"k" * 1025, U8, b"\0")]), "1025 bytes long"),
    "key not UTF-8": (Gguf(keys=[(b"\xff", U8, b"\0")]), "metadata key 0 is not UTF-8"),
    "key twice": (Gguf(keys=[("k", U8, b"\0"), ("k", U8, b"\1")]), "'k' occurs twice"),
    "value type": (with_key(13, bytes(8)), "unknown value type 13"),
    "bool": (with_key(BOOL, b"\2"), "neither true nor false"),
    "bool array": (with_key(ARRAY, u32(BOOL) + u64(2) + b"\1\2"), "neither true nor false"),
    "string length": (with_key(STRING, u64(2**64 - 1)), "18446744073709551615 bytes long"),
    "string beyond the file": (with_key(STRING, u64(9) + b"x"), "takes 9 bytes, but .* 1 more"),
    "string not UTF-8": (with_key(STRING, text(b"\xc3")), "not UTF-8"),
    "array type": (with_key(ARRAY, u32(99) + u64(1) + b"\0"), "unknown value type 99"),
    "array count": (with_key(ARRAY, u32(U32) + u64(2**62)), "4611686018427387904 elements"),
    "array beyond the file": (with_key(ARRAY, u32(U32) + u64(4) + bytes(15)), "takes 16 bytes"),
    "string array count": (with_key(ARRAY, u32(STRING) + u64(2) + bytes(8)), "takes 16 bytes"),
    "strings in all": (with_key(ARRAY, u32(STRING) + u64(2**22 + 1)), "4194304 are allowed"),
    "string in array": (with_key(ARRAY, u32(STRING) + u64(2) + text("abc") + u64(2**64 - 1)), "array 'some.key' takes"),
    "string start in array": (
        with_key(ARRAY, u32(STRING) + u64(2) + text("abcdefgh")),
        "string 1 of 'some.key' starts beyond",
    ),
    "alignment 0": (Gguf(keys=[("general.alignment", U32, u32(0))]), "power of two"),
    "alignment 48": (Gguf(keys=[("general.alignment", U32, u32(48))]), "power of two"),
    "alignment 2**31": (Gguf(keys=[("general.alignment", U32, u32(2**31))]), "power of two"),
    "alignment true": (Gguf(keys=[("general.alignment", BOOL, b"\1")]), "power of two"),
    "no dimension": (with_tensors(Tensor("t", ())), "0 dimensions"),
    "five dimensions": (with_tensors(Tensor("t", (1,) * 5)), "5 dimensions"),
    "dimension 0": (with_tensors(Tensor("t", (4, 0))), "each at least 1"),
    "dimensions overflow": (with_tensors(Tensor("t", (2**63, 2**63, 4))), "bytes beyond the file"),
    "row of part blocks": (with_tensors(Tensor("t", (48, 2), 2)), "whole blocks of 32"),
    "tensor twice": (with_tensors(Tensor("t", (4,)), Tensor("t", (4,), offset=32)), "tensor 't' occurs twice"),
    "misaligned": (with_tensors(Tensor("t", (4,), offset=16)), "not a multiple of 32"),
    "overlap": (
        with_tensors(Tensor("a", (4,)), Tensor("b", (32,)), Tensor("c", (4,), offset=96)),
        "'a' and 'b' overlap",
    ),
    "beyond the file": (with_tensors(Tensor("t", (65,))), "ends 4 bytes beyond the file"),
    "offset": (with_tensors(Tensor("t", (4,), offset=2**64 - 32)), "beyond the file"),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_corrupt_files_are_refused(case: str) -> None:
    file, message = CORRUPT[case]
    with pytest.raises(ModelFormatError, match=message) as error:
        parse(file)
    assert str(error.value).startswith("model.gguf: ")
    assert str(error.value).endswith("download it again")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (Gguf(version=1), "GGUF version 1; expected"),
        (Gguf(version=4), "version 4, which is not known"),
        (Gguf(version=3 << 24), "big-endian"),
        (Gguf(version=0), "version 0, which does not exist"),
        (with_tensors(Tensor("t", (256,), 25)), "'t' is of type I16; use a file .* Q4_K"),
        (with_tensors(Tensor("t", (256,), 4)), "'t' is of type 4;"),
        (with_key(ARRAY, u32(ARRAY) + u64(1) + strings("a")), "array of arrays"),
    ],
)
def test_other_files_are_named(file: Gguf, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        parse(file)


@pytest.mark.parametrize(
    ("head", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
        (b"PK\3\4", "PyTorch checkpoint"),
        (b"tjgg\1\0\0\0", "before GGUF"),
        (b"\x10\0\0\0\0\0\0\0{", "safetensors"),
        (b"FUGG", "download it again"),
    ],
)
def test_lookalikes_are_recognised(head: bytes, hint: str) -> None:
    with pytest.raises(ModelFormatError, match=hint):
        parse_gguf(head, "model.gguf")


def test_strings_of_an_array_are_checked_when_used() -> None:
    file = parse(with_key(ARRAY, strings("fine", b"\xff")))
    assert "some.key" in file.metadata
    with pytest.raises(ModelFormatError, match="string 1 of an array is not UTF-8"):
        file.metadata["some.key"]


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no file"):
        read_gguf(tmp_path / "absent.gguf")
    with pytest.raises(ModelNotFoundError, match="not a file"):
        read_gguf(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        read_gguf("nul\0byte")
    os.mkfifo(tmp_path / "pipe.gguf")  # opening it would wait for ever
    with pytest.raises(ModelNotFoundError, match="not a file"):
        read_gguf(tmp_path / "pipe.gguf")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(ModelFormatError, match="empty"):
        read_gguf(tmp_path / "empty.gguf")


@pytest.mark.parametrize("case", CORRUPT)
def test_no_claim_takes_memory(case: str) -> None:
    content = CORRUPT[case][0].build()
    tracemalloc.start()
    with pytest.raises(ModelFormatError):
        parse_gguf(content, "model.gguf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
