"""Every block decoder equals the reference's, bit for bit, and rows are independent."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from miaotui.errors import ModelFormatError
from miaotui.hub.formats.blocks import bf16_to_float32, f16_to_float32
from miaotui.hub.formats.tensors import BY_GGML_ID, BlockType, StoredTensor

QUANTIZED = [kind for kind in BY_GGML_ID.values() if not kind.is_float]


def random_tensor(kind: BlockType, rows: int = 9, blocks: int = 4, seed: int = 0) -> StoredTensor:
    """Random bytes: every bit pattern occurs, in the scales those of infinities and NaN too."""
    blocks = blocks * 32 if kind.is_float else blocks
    rng = np.random.default_rng(seed + kind.ggml_id)
    raw = rng.integers(0, 256, rows * blocks * kind.block_bytes, dtype=np.uint8)
    return StoredTensor.from_bytes("t", (rows, blocks * kind.block_size), kind, raw)


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal down to the sign of zero; NaNs are equal to each other."""
    assert ours.dtype == theirs.dtype == np.float32
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    numbers = ~np.isnan(ours)
    np.testing.assert_array_equal(ours[numbers].view(np.uint32), theirs[numbers].view(np.uint32))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", BY_GGML_ID.values(), ids=lambda kind: kind.name)
def test_decodes_as_the_reference(kind: BlockType) -> None:
    tensor = random_tensor(kind, rows=400)
    theirs = gguf.quants.dequantize(tensor.data, gguf.GGMLQuantizationType[kind.name])
    assert np.isfinite(theirs).mean() > 0.9
    assert_same_bits(tensor.float32(), theirs)


@pytest.mark.parametrize("kind", BY_GGML_ID.values(), ids=lambda kind: kind.name)
def test_sizes_and_ids_are_the_reference_s(kind: BlockType) -> None:
    theirs = gguf.GGMLQuantizationType[kind.name]
    assert kind.ggml_id == theirs.value
    assert (kind.block_size, kind.block_bytes) == gguf.GGML_QUANT_SIZES[theirs]
    assert BY_GGML_ID[theirs.value] is kind


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", BY_GGML_ID.values(), ids=lambda kind: kind.name)
def test_rows_are_independent(kind: BlockType) -> None:
    tensor = random_tensor(kind)
    whole = tensor.float32()
    assert_same_bits(tensor.float32(2, 5), whole[2:5])
    assert tensor.float32(5, 5).shape == (0, tensor.cols)
    order = [8, 0, 3, 3]
    taken = tensor.take_rows(order)
    assert taken.shape == (4, tensor.cols)
    assert_same_bits(taken.float32(), whole[order])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_codes_give_the_weights(kind: BlockType) -> None:
    tensor = random_tensor(kind)
    codes = tensor.codes(1, 4)
    groups, group = codes.scale.shape[1], codes.q.shape[2]
    assert codes.q.dtype == np.int8
    assert codes.q.shape == (3, groups, group)
    assert group in (16, 32)
    assert groups * group == tensor.cols
    minimum = np.zeros_like(codes.scale) if codes.minimum is None else codes.minimum
    weights = codes.q * codes.scale[..., None] - minimum[..., None]
    np.testing.assert_array_equal(weights.reshape(3, -1), tensor.float32(1, 4))


def test_large_tensors_are_decoded_in_pieces() -> None:
    tensor = random_tensor(BlockType.BF16, rows=300, blocks=16)
    np.testing.assert_array_equal(tensor.float32(7, 299), bf16_to_float32(tensor.data)[7:299].reshape(292, -1))


def test_every_half_is_exact() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    ours = f16_to_float32(halves.view(np.uint8))
    np.testing.assert_array_equal(ours, halves.view(np.float16).astype(np.float32))
    upper = bf16_to_float32(halves.view(np.uint8))
    assert_same_bits(upper, (halves.astype(np.uint32) << 16).view(np.float32))
    assert upper[0x3F80] == 1.0
    assert upper[0xC040] == -3.0


def test_vectors() -> None:
    values = np.arange(6, dtype=np.float32)
    vector = StoredTensor.from_bytes("v", (6,), BlockType.F32, values.view(np.uint8))
    assert vector.data.shape == (1, 24)
    assert (vector.rows, vector.cols, vector.size_bytes) == (1, 6, 24)
    np.testing.assert_array_equal(vector.float32(), values)
    np.testing.assert_array_equal(vector.take_rows([5, 0]).float32(), [5, 0])
    np.testing.assert_array_equal(vector.take_rows(slice(2, 4)).float32(), [2, 3])
    decoded = vector.float32()
    decoded[:] = 9  # a copy: the file's values stay
    np.testing.assert_array_equal(vector.float32(), values)


def test_elements_of_a_quantized_vector_cannot_be_taken() -> None:
    raw = np.zeros(34, np.uint8)
    vector = StoredTensor.from_bytes("v", (32,), BlockType.Q8_0, raw)
    assert vector.float32().shape == (32,)
    with pytest.raises(ValueError, match="share scales"):
        vector.take_rows([0])


def test_slices_of_rows_are_views() -> None:
    tensor = random_tensor(BlockType.Q4_0)
    part = tensor.take_rows(slice(2, 5))
    assert part.shape == (3, tensor.cols)
    assert np.shares_memory(part.data, tensor.data)


def test_leading_dimensions_become_rows() -> None:
    raw = np.arange(2 * 3 * 34, dtype=np.uint8)
    tensor = StoredTensor.from_bytes("t", (2, 3, 32), BlockType.Q8_0, raw)
    assert (tensor.rows, tensor.cols) == (6, 32)
    assert tensor.float32(4).shape == (2, 32)


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((2, 32), 67, "67 bytes, but Q8_0 .* takes 68"),
        ((2, 33), 68, "whole blocks of 32"),
        ((2, 0), 0, "each at least 1"),
        ((), 34, "1 to 4 dimensions"),
        ((1, 1, 1, 1, 32), 34, "1 to 4 dimensions"),
    ],
)
def test_bytes_must_fit_the_shape(shape: tuple[int, ...], size: int, message: str) -> None:
    with pytest.raises(ModelFormatError, match=message):
        StoredTensor.from_bytes("t", shape, BlockType.Q8_0, np.zeros(size, np.uint8))
