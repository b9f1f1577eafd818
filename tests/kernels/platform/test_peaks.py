"""The best logit of each row: what NumPy's argmax says, whatever the width, the team and the values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_pass import Floating, run_pass
from numpy.typing import NDArray

from miaotui.kernels import reference
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.thread_pool import address_of, aligned_int64
from miaotui.kernels.sampling import peaks_fields as pk
from miaotui.kernels.sampling.draw_fields import ALL_ALLOWED, CHOICE_FIELDS, CHOICE_MASK, NOT_HERE
from miaotui.kernels.sampling.peaks_fields import PART, PEAK_FIELDS, PEAK_ID, PEAK_VALUE, parts_of

WIDTHS = (1, 15, 16, 17, 31, 63, 64, 65, 500, PART, PART + 1, 1600, 49_152, 50_257)
INF = np.float32(np.inf)


def found(values: NDArray[np.float32], threads: int = 1) -> NDArray[np.int64]:
    """The peaks of each row but the last, which is none of the pass's; logits are only read."""
    rows, width = values.shape
    logits, parts = Floating(rows, width, values), Floating(rows, parts_of(width))
    out = aligned_int64(rows * PEAK_FIELDS).reshape(-1, PEAK_FIELDS)
    out[:] = -7
    fields = {
        ops.ROWS: ops.RUN_LOGIT_ROWS,
        pk.X: logits.address,
        pk.X_STRIDE: logits.stride,
        pk.WIDTH: width,
        pk.PARTS: parts.address,
        pk.PARTS_STRIDE: parts.stride,
        pk.OUT: address_of(out),
    }
    operations = [("sampling.peaks:part_peaks", fields), ("sampling.peaks:row_peaks", fields)]
    run_pass(operations, {ops.RUN_LOGIT_ROWS: rows - 1}, threads)
    assert logits.read().tobytes() == values.tobytes()
    parts.check(rows - 1)
    assert (out[-1] == -7).all()
    return out[:-1]


def check(values: NDArray[np.float32], threads: int = 1) -> None:
    """Ids as the reference has them, and the bits of their logits."""
    rows = values[:-1]
    peaks = found(values, threads)
    ids = reference.peaks(rows)
    np.testing.assert_array_equal(peaks[:, PEAK_ID], ids)
    bits = np.ascontiguousarray(peaks[:, PEAK_VALUE]).view(np.int32)[::2]
    np.testing.assert_array_equal(bits, rows[np.arange(len(rows)), ids].view(np.int32))


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("width", WIDTHS)
def test_peaks_are_those_of_numpy(width: int, threads: int) -> None:
    check(np.random.default_rng(width).standard_normal((9, width), np.float32), threads)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("width", [1, 40, PART, 1600])
def test_a_peak_at_every_kind_of_place(width: int, threads: int) -> None:
    places = sorted({0, width // 2, width - 1, min(width - 1, PART), width // 16 * 16 % width})
    values = np.full((len(places) + 1, width), -3, np.float32)
    for row, place in enumerate(places):
        values[row, place] = -2
    check(values, threads)


@pytest.mark.parametrize("width", [1, 33, 700, 2049])
def test_equal_logits_go_to_the_lowest_id(width: int) -> None:
    rng = np.random.default_rng(width)
    check(rng.integers(0, 3, (12, width)).astype(np.float32), 2)
    zeros = np.where(rng.random((12, width)) < 0.5, np.float32(0), np.float32(-0.0))
    check(zeros.astype(np.float32), 2)


@pytest.mark.parametrize("width", [1, 20, 513, 1600])
def test_logits_that_are_no_numbers(width: int) -> None:
    """NaN of either sign and payload, anywhere; infinities; rows of nothing but -inf."""
    values = np.random.default_rng(width).standard_normal((7, width), np.float32)
    values[0, width - 1] = np.nan
    values[1, width // 2 :] = -np.nan
    values[2, [0, width // 3]] = INF, np.nan
    values[3] = -INF
    values[4, width // 2] = INF
    values[5, :] = -INF
    values[5, width - 1] = np.float32(-3e38)
    check(values, 2)


ODD = st.sampled_from([0.0, -0.0, 1.0, -1.0, 3e38, 1e-45, np.inf, -np.inf, np.nan, -np.nan])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1100), st.integers(1, 4), st.lists(ODD, min_size=1, max_size=24), st.integers())
def test_any_mixture(width: int, threads: int, kinds: list[float], seed: int) -> None:
    rng = np.random.default_rng(abs(seed))
    values = rng.choice(np.array(kinds, np.float32), (4, width))
    check(values, threads)


def masked(
    values: NDArray[np.float32], allowed: NDArray[np.bool_], threads: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The peaks of rows with masks, but of the first, which has none, and of the second, not for the pass."""
    rows, width = values.shape
    logits, parts = Floating(rows, width, values), Floating(rows, 2 * parts_of(width))
    out = aligned_int64(rows * PEAK_FIELDS).reshape(-1, PEAK_FIELDS)
    bits = np.packbits(np.pad(allowed, ((0, 0), (0, -width % 32))), axis=1, bitorder="little")
    table, listed = aligned_int64(rows * ops.ROW_FIELDS), aligned_int64(rows)
    choices = aligned_int64(rows * CHOICE_FIELDS).reshape(rows, -1)
    for row in range(rows):
        choices[row, CHOICE_MASK] = address_of(bits[row])
        table[(rows - 1 - row) * ops.ROW_FIELDS + ops.ROW_CHOICE] = address_of(choices[row])
        listed[row] = rows - 1 - row
    choices[0, CHOICE_MASK], choices[1, CHOICE_MASK] = ALL_ALLOWED, NOT_HERE
    fields = {
        ops.ROWS: ops.RUN_LOGIT_ROWS,
        pk.X: logits.address,
        pk.X_STRIDE: logits.stride,
        pk.WIDTH: width,
        pk.PARTS: parts.address,
        pk.PARTS_STRIDE: parts.stride,
        pk.OUT: address_of(out),
        pk.MASKED: 1,
    }
    run = {ops.RUN_LOGIT_ROWS: rows, ops.RUN_ROW_TABLE: address_of(table), ops.RUN_LOGIT_TABLE: address_of(listed)}
    run_pass([("sampling.peaks:part_peaks", fields), ("sampling.peaks:row_peaks", fields)], run, threads)
    return out, logits.read()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("share", [0.001, 0.5, 1.0])
def test_a_mask_leaves_the_peak_of_what_it_allows(width: int, threads: int, share: float) -> None:
    rng = np.random.default_rng(width)
    values = rng.integers(-9, 9, (7, width)).astype(np.float32)  # with many equals
    allowed = rng.random((7, width)) < share
    allowed[:, width // 2] = True
    values[6, 0] = np.nan
    peaks, left = masked(values, allowed, threads)
    expected = np.where(allowed, values, -INF)
    expected[:2] = values[:2]
    np.testing.assert_array_equal(left, np.where(np.isnan(values) & allowed, np.nan, expected))
    np.testing.assert_array_equal(peaks[:6, PEAK_ID], reference.peaks(expected[:6]))
    assert peaks[6, PEAK_ID] == 0  # the row's own: no mask may hide that it is broken
    tops = np.ascontiguousarray(peaks[:, PEAK_VALUE]).view(np.float32)[::2]
    np.testing.assert_array_equal(tops[:6], expected[:6].max(1))


def test_a_mask_may_leave_nothing() -> None:
    peaks, _ = masked(np.ones((3, 100), np.float32), np.zeros((3, 100), np.bool_))
    tops = np.ascontiguousarray(peaks[:, PEAK_VALUE]).view(np.float32)[::2]
    assert tops.tolist() == [1.0, 1.0, -np.inf]
