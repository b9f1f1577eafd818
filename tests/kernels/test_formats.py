"""Packed weights: what is packed comes back, what is rounded is near, padding is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_pass import assert_same, group_counts, packed, random_blocks

from miaotui.kernels.linear.formats import (
    GROUP,
    TILE_ROWS,
    UNIT_ROWS,
    Format,
    packed_bytes,
    padded_rows,
    records,
    tile_stride,
)
from miaotui.kernels.linear.packed_blocks import Blocks, pack, quantize, unpack, values

FORMATS = st.sampled_from(list(Format))
ROUNDABLE = [Format.Q4, Format.Q4M, Format.Q5_0, Format.Q6, Format.Q8, Format.F32, Format.BF16]
ROUNDED = st.sampled_from(ROUNDABLE)
ROWS, GROUPS = st.integers(1, 70), st.integers(1, 7)
SEEDS = st.integers(0, 2**32 - 1)
few = settings(deadline=None, max_examples=60)


def unpacked(form: Format, data: np.ndarray, groups: int) -> Blocks:
    inputs = GROUP * groups
    return unpack(form, data.reshape(-1, tile_stride(form, inputs)), inputs)


@few
@given(FORMATS, ROWS, GROUPS, SEEDS)
def test_what_is_packed_comes_back(form: Format, rows: int, groups: int, seed: int) -> None:
    groups = group_counts(form, groups)
    blocks = random_blocks(form, rows, GROUP * groups, np.random.default_rng(seed))
    found = unpacked(form, packed(blocks), groups)
    for name in ("integers", "scales", "minimums", "subs", "sub_minimums"):
        whole, part = getattr(found, name), getattr(blocks, name)
        if part is None:
            assert whole is None
        else:
            assert_same(whole[:rows], part)
            assert not whole[rows:].any()


@few
@given(FORMATS, ROWS, GROUPS)
def test_sizes_agree(form: Format, rows: int, groups: int) -> None:
    groups = group_counts(form, groups)
    inputs, stride = GROUP * groups, tile_stride(form, GROUP * groups)
    padded = padded_rows(rows)
    assert padded % UNIT_ROWS == 0
    assert rows <= padded < rows + UNIT_ROWS
    assert 0 <= stride - records(form, inputs) * form.record_bytes < 64
    assert stride % 64 == 0
    assert packed_bytes(form, rows, inputs) == padded // TILE_ROWS * stride
    assert groups <= records(form, inputs) * form.record_groups < groups + form.record_groups


@few
@given(st.sampled_from([Format.Q4, Format.Q5_0, Format.Q8]), st.sampled_from([1, 3, 5, 7]), SEEDS)
def test_a_group_that_fills_a_record_up_is_zeros(form: Format, groups: int, seed: int) -> None:
    """An odd number of groups leaves half a record, which must not come from old memory."""
    blocks = random_blocks(form, TILE_ROWS, GROUP * groups, np.random.default_rng(seed))
    out = np.full((1, tile_stride(form, GROUP * groups)), 0xA5, np.uint8)
    pack(blocks, out)
    last = out[0, -form.record_bytes :]
    assert not last[2 * TILE_ROWS : 4 * TILE_ROWS].any()
    assert not last[form.head_bytes + form.integer_bytes :].any()


def test_the_first_group_of_a_tile_lies_as_documented() -> None:
    rng = np.random.default_rng(0)
    q4, q4m, q8, f32 = (
        random_blocks(form, TILE_ROWS, 2 * GROUP, rng) for form in (Format.Q4, Format.Q4M, Format.Q8, Format.F32)
    )
    for blocks, head in ((q4, 64), (q4m, 64), (q8, 64), (f32, 0)):
        raw = packed(blocks)
        loaded = raw[head : head + 64]
        for row in range(TILE_ROWS):
            group = blocks.integers[row, 0]
            if blocks.format is Format.F32:
                assert loaded.view(np.float32)[row] == group[0]
                continue
            assert raw[:32].view(np.float16)[row] == blocks.scales[row, 0]
            four = loaded[4 * row : 4 * row + 4]
            nibbles = blocks.format is not Format.Q8
            assert_same(four & 15 if nibbles else four, group[:4])
            if nibbles:
                assert_same(four >> 4, group[4:8])
    assert_same(packed(q4m)[32:64].view(np.float16), q4m.minimums[:, 0])
    assert_same(packed(q4)[32:64].view(np.float16), q4.scales[:, 1])


def worst_rounding(form: Format, groups: np.ndarray) -> np.ndarray:
    """The greatest error that each group of 32 may have; scales are rounded to float16."""
    top = np.abs(groups).max(axis=-1)
    width = groups.max(axis=-1) - groups.min(axis=-1)
    step = {
        Format.Q4: top / 8,
        Format.Q4M: width / 15,
        Format.Q5_0: top / 16,
        Format.Q6: top / 32,
        Format.Q8: top / 127,
        Format.F32: top * 0,
        Format.BF16: top / 128,  # of a value as large as the largest
    }
    # q4 reaches from -8 to 7 steps: a value at +8 is a whole step off
    half_step = step[form] * (1.0 if form in (Format.Q4, Format.Q5_0, Format.Q6) else 0.5)
    return half_step + (0 if form is Format.F32 else top * 2e-3 + 1e-6)


@few
@given(ROUNDED, ROWS, GROUPS, SEEDS, st.sampled_from([1e-3, 1.0, 100.0]))
def test_rounding_is_near(form: Format, rows: int, groups: int, seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((rows, GROUP * groups), np.float32) * np.float32(size)
    matrix[rng.random(rows) < 0.2] = 0
    found = values(quantize(form, matrix)).reshape(rows, groups, GROUP)
    wide = matrix.reshape(rows, groups, GROUP).astype(np.float64)
    assert (np.abs(found - wide).max(axis=-1) <= worst_rounding(form, wide)).all()


@few
@given(ROUNDED, ROWS, GROUPS, SEEDS)
def test_rounding_twice_is_rounding_once(form: Format, rows: int, groups: int, seed: int) -> None:
    """Values that a format holds exactly stay as they are."""
    rng = np.random.default_rng(seed)
    least, most = (1, 255) if form is Format.Q8 else (0, max(15, 2 * form.layout.offset - 1))
    integers = rng.integers(least, most + 1, (rows, groups, GROUP)).astype(np.uint8)
    integers[:, :, 0], integers[:, :, 1] = least, most
    scales = np.exp2(rng.integers(-6, 3, (rows, groups))).astype(np.float16)
    minimums = (scales * rng.integers(-9, 9, (rows, groups))).astype(np.float16)
    held = {
        Format.Q4: Blocks(form, integers, scales),
        Format.Q4M: Blocks(form, integers, scales, minimums),
        Format.Q5_0: Blocks(form, integers, scales),
        Format.Q6: Blocks(form, integers, scales),
        Format.Q8: Blocks(form, integers, scales),
        Format.F32: Blocks(form, rng.standard_normal((rows, groups, GROUP), np.float32)),
        Format.BF16: quantize(Format.BF16, rng.standard_normal((rows, groups * GROUP), np.float32)),
    }[form]
    assert_same(values(quantize(form, values(held))), values(held))


@pytest.mark.parametrize("form", ROUNDABLE, ids=lambda form: form.value)
def test_a_matrix_of_zeros_stays_zero(form: Format) -> None:
    assert not values(quantize(form, np.zeros((3, 64), np.float32))).any()
