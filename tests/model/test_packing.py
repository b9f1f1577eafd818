"""Packed weights hold GGML's blocks exactly: values are, bit for bit, those of gguf-py's dequantisation."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from miaotui.errors import ModelFormatError
from miaotui.hub.formats.tensors import BY_GGML_ID, BlockType, StoredTensor
from miaotui.hub.store import PackedStore, content_key
from miaotui.kernels.linear.formats import Format, padded_rows, tile_stride
from miaotui.kernels.linear.packed_blocks import unpack, values
from miaotui.model.packed import LAYOUT, pack_model, packing_progress
from miaotui.model.packing import encoder_format, pack_matrix, packed_format
from miaotui.model.reading.files import open_model
from random_blocks import HALVES, random_tensor
from tiny_models import make_tiny_folder

QUANTIZED = [kind for kind in BY_GGML_ID.values() if not kind.is_float]
EXACT = [kind for kind in QUANTIZED if packed_format(kind, Format.F32) is not Format.Q8 or kind is BlockType.Q8_0]
LARGER = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0"}  # than in the file


def packed_values(tensor: StoredTensor, form: Format) -> NDArray[np.float32]:
    """What the packed matrix stands for, rows of padding included."""
    out = np.full((padded_rows(tensor.rows) // 32, 2, tile_stride(form, tensor.cols)), 0xA5, np.uint8)
    pack_matrix(tensor, form, out)
    return values(unpack(form, out.reshape(-1, out.shape[2]), tensor.cols))


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(EXACT), st.integers(1, 70), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_blocks_are_held_exactly(kind: BlockType, rows: int, blocks: int, seed: int) -> None:
    tensor = random_tensor(kind, rows, blocks, seed)
    found = packed_values(tensor, packed_format(kind, Format.Q8))
    expected = gguf.quants.dequantize(tensor.data, gguf.GGMLQuantizationType[kind.name])
    np.testing.assert_array_equal(found[:rows], expected)
    assert not found[rows:].any()


@given(st.integers(0, 2**32 - 1))
def test_bfloat16_keeps_the_values_of_its_files_and_rounds_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 1 << 16, (40, 64), np.uint16)
    bits[(bits & 0x7F80) == 0x7F80] = 0  # no number, or infinite
    stored = StoredTensor.from_bytes("w", bits.shape, BlockType.BF16, bits.reshape(-1).view(np.uint8))
    np.testing.assert_array_equal(packed_values(stored, Format.BF16)[:40], stored.float32())
    floats = rng.standard_normal((40, 64), np.float32)
    stored = StoredTensor.from_bytes("w", floats.shape, BlockType.F32, floats.reshape(-1).view(np.uint8))
    found = packed_values(stored, Format.BF16)[:40]
    assert (np.abs(found - floats) <= np.abs(floats) * 2**-8).all()


@pytest.mark.parametrize("kind", EXACT, ids=lambda kind: kind.name)
def test_packed_blocks_take_little_more_than_the_file(kind: BlockType) -> None:
    form = packed_format(kind, Format.Q8)
    rows, cols = 2048, 2048
    assert form.bits_per_weight < 8.6
    if kind.name not in LARGER:
        assert tile_stride(form, cols) * rows // 16 <= 1.05 * rows * kind.row_bytes(cols)


def test_every_block_type_of_files_has_a_format() -> None:
    assert {kind.name for kind in EXACT} == set(HALVES)


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_encoders_use_three_formats(kind: BlockType) -> None:
    """Exact where integers allow it; Q4_K's scales are rounded to float16, the rest to 8 bits a weight."""
    form = encoder_format(kind, Format.F32)
    assert form in (Format.Q4, Format.Q4M, Format.Q8)
    tensor = random_tensor(kind, 32, 2, seed=1) if kind is not BlockType.MXFP4 else small_powers()
    expected = tensor.float32()
    found = packed_values(tensor, form)
    top = np.abs(expected).reshape(32, -1, 32).max(axis=2)
    error = np.abs(found - expected).reshape(32, -1, 32).max(axis=2)
    if kind.name in ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "IQ4_NL"):
        assert not error.any()
    assert (error <= 0.008 * top + 1e-5).all()


def small_powers() -> StoredTensor:
    raw = random_tensor(BlockType.MXFP4, 32, 2, seed=1).data.reshape(-1, 17).copy()
    raw[:, 0] = 118 + raw[:, 0] % 8
    return StoredTensor.from_bytes("t", (32, 64), BlockType.MXFP4, raw.reshape(-1))


@pytest.mark.parametrize("kind", [BlockType.Q6_K, BlockType.Q4_K, BlockType.MXFP4], ids=lambda kind: kind.name)
def test_weights_that_are_not_numbers_are_refused(kind: BlockType) -> None:
    raw = random_tensor(kind, 4, 1, seed=2).data.reshape(-1, kind.block_bytes).copy()
    if kind is BlockType.MXFP4:
        raw[3, 0] = 255
    else:
        at = HALVES[kind.name][0]
        raw[3, at : at + 2] = np.array([np.inf], np.float16).view(np.uint8)
    tensor = StoredTensor.from_bytes("blk.0.q", (4, kind.block_size), kind, raw.reshape(-1))
    with pytest.raises(ModelFormatError, match=r"'blk.0.q' holds weights that are not numbers"):
        packed_values(tensor, packed_format(kind, Format.Q8))


def test_a_cache_of_an_older_layout_is_packed_again_and_that_is_said(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"weights")
    store, heard = PackedStore(tmp_path / "packed"), list[str]()

    def hear(step: str, done: int, total: int | None) -> None:
        heard.append(step)

    def told(extra: dict[str, str]) -> str:
        progress = packing_progress(hear, model, store, extra)
        assert progress is not None
        progress("embed", 0, 1)
        return heard[-1]

    with store.create(content_key(model, {"layout": LAYOUT - 1, "format": "q8"}), {}) as writer:
        writer.add("embed", np.zeros(4, np.float32))
    assert told({"format": "q8"}) == "repacking"
    assert told({"format": "q4"}) == "packing"
    assert packing_progress(None, model, store, {}) is None


def test_layers_that_share_weights_lie_in_memory_once(tmp_path: Path) -> None:
    """Matrices of the same bytes are packed once; the model computes what it would with copies of them."""
    folder = make_tiny_folder(tmp_path, "llama")
    arrays = load_file(folder / "model.safetensors")
    shared = {n: arrays[n.replace("layers.1.", "layers.0.")] if "proj" in n else x for n, x in arrays.items()}
    save_file(shared, folder / "model.safetensors")
    store = PackedStore(tmp_path / "packed")
    with open_model(folder) as files:
        packed = pack_model(files, store, "shared")
        first, second = (packed.matrix(f"layers.{layer}.gate_up") for layer in (0, 1))
        assert first.address == second.address
        assert packed.matrix("layers.0.o").address != packed.matrix("layers.0.down").address
        own = sum(packed.matrix(f"layers.0.{name}").data.nbytes for name in ("qkv", "o", "gate_up", "down"))
    size = store.path("shared").stat().st_size
    save_file(arrays, folder / "model.safetensors")
    with open_model(folder) as files:
        apart = pack_model(files, store, "apart")
        assert apart.matrix("layers.0.o").address != apart.matrix("layers.1.o").address
    assert store.path("apart").stat().st_size - size > 0.9 * own
    assert store.open("shared").verify()
