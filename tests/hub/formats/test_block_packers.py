"""Packing is the inverse of unpacking for each block type, and a packed file is read back with the same weights."""

from __future__ import annotations

import io
from pathlib import Path

import gguf
import numpy as np
import pytest

from miaotui.hub.formats.gguf import parse_gguf, read_gguf
from miaotui.hub.formats.mapped import map_file
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.hub.writers.blocks import PACKERS, pack
from miaotui.hub.writers.gguf import with_file_type, write_gguf
from random_blocks import random_tensor
from tiny_models import make_tiny_gguf


@pytest.mark.parametrize("kind", PACKERS, ids=lambda kind: kind.name)
def test_packing_undoes_unpacking(kind: BlockType) -> None:
    tensor = random_tensor(kind, rows=3, blocks=40, seed=kind.ggml_id)
    blocks = tensor.data.reshape(-1, kind.block_bytes)
    one_row_per_block = StoredTensor(tensor.name, (len(blocks), kind.block_size), kind, blocks)
    np.testing.assert_array_equal(pack(kind, one_row_per_block.codes()), blocks)


@pytest.mark.parametrize("kind", PACKERS, ids=lambda kind: kind.name)
def test_the_reference_reads_packed_blocks(kind: BlockType) -> None:
    tensor = random_tensor(kind, rows=2, blocks=9, seed=1, size=0.5)
    per_block = StoredTensor("t", (18, kind.block_size), kind, tensor.data.reshape(18, -1))
    theirs = gguf.quants.dequantize(pack(kind, per_block.codes()), gguf.GGMLQuantizationType[kind.name])
    np.testing.assert_array_equal(theirs, per_block.float32())


def test_a_file_of_mixed_types_is_read_back(tmp_path: Path) -> None:
    source = make_tiny_gguf(tmp_path, "llama", hidden_size=256)
    with read_gguf(source) as opened:
        tensors = {
            name: random_tensor(list(PACKERS)[i % len(PACKERS)], tensor.rows, 2, i, name=name)
            for i, (name, tensor) in enumerate(opened.tensors.items())
        }
        sizes = {name: (tensor.kind, tensor.shape) for name, tensor in tensors.items()}
        data = (tensor.data.reshape(-1) for tensor in tensors.values())
        written = io.BytesIO()
        head = with_file_type(with_file_type(map_file(source), "the model", 1), "its head", 7)
        write_gguf(written, head, sizes, data)
        found = parse_gguf(written.getvalue(), "written")
        assert found.metadata["general.file_type"] == 7
        assert set(found.metadata) == {*opened.metadata, "general.file_type"}
    for name, tensor in tensors.items():
        assert found.tensors[name].kind is tensor.kind
        np.testing.assert_array_equal(found.tensors[name].data, tensor.data)
