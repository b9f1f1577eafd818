"""The best tokens of each row and its log-probabilities: those of NumPy, whatever width, team and values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_pass import Floating, run_pass
from numpy.typing import NDArray

from miaotui.backends.target_scores import best_places, log_softmax
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.thread_pool import address_of, aligned_int64
from miaotui.kernels.sampling import tops_fields as tp
from miaotui.kernels.sampling.peaks_fields import PART, parts_of

Floats = NDArray[np.float32]
WIDTHS = (1, 15, 17, 160, PART - 1, PART, PART + 1, 5 * PART + 3, 70 * PART + 40)


def found(values: Floats, wanted: list[int], threads: int = 1) -> tuple[list[list[int]], list[Floats]]:
    """Tokens and log-probabilities of each row."""
    rows, width = values.shape
    behind = np.full((rows, -width % 32), 1e30, np.float32)  # is not looked at
    logits = Floating(rows, width + behind.shape[1], np.concatenate([values, behind], axis=1))
    parts = Floating(rows, 2 * parts_of(width) + 16)
    records = aligned_int64(rows * tp.RECORD_FIELDS).reshape(rows, -1)
    table, listed = aligned_int64(rows * ops.ROW_FIELDS).reshape(rows, -1), aligned_int64(rows)
    listed[:] = np.arange(rows)[::-1]  # row i of the logits is a row of the pass
    table[listed, ops.ROW_TOPS] = wanted
    fields = {
        ops.ROWS: ops.RUN_LOGIT_ROWS,
        tp.X: logits.address,
        tp.X_STRIDE: logits.stride,
        tp.WIDTH: width,
        tp.PARTS: parts.address,
        tp.PARTS_STRIDE: parts.stride,
        tp.OUT: address_of(records),
    }
    run = {ops.RUN_LOGIT_ROWS: rows, ops.RUN_ROW_TABLE: address_of(table), ops.RUN_LOGIT_TABLE: address_of(listed)}
    run_pass([("sampling.tops:part_tops", fields), ("sampling.tops:row_tops", fields)], run, threads)
    tokens, scores = [], []
    for record in records:
        pairs = record[tp.RECORD_TOKENS :][: 2 * int(record[tp.RECORD_COUNT])]
        logit, total = pairs.view(np.float32)[2::4], record.view(np.float32)[2 * tp.RECORD_TOTAL]
        tokens.append(pairs[::2].tolist())
        scores.append(logit - (logit[:1] + np.log(total)))
    return tokens, scores


def check(values: Floats, wanted: list[int], threads: int = 1) -> None:
    tokens, scores = found(values, wanted, threads)
    for row, count, mine, score in zip(values, wanted, tokens, scores, strict=True):
        expected = best_places(row, min(count, row.size))
        assert mine == expected.tolist()
        np.testing.assert_allclose(score, log_softmax(row)[expected], atol=2e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", WIDTHS)
def test_tokens_and_scores_are_those_of_numpy(width: int, threads: int) -> None:
    values = (4 * np.random.default_rng(width).standard_normal((7, width))).astype(np.float32)
    check(values, [1, 8, tp.MOST, 0, 3, 2, 63], threads)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 3 * PART),
    levels=st.integers(1, 5),
    wanted=st.lists(st.integers(0, tp.MOST), min_size=1, max_size=4),
    seed=st.integers(0, 1 << 16),
)
def test_equals_come_in_the_order_of_tokens(width: int, levels: int, wanted: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, levels, (len(wanted), width)).astype(np.float32)
    check(values, wanted)


def test_a_row_that_holds_no_number_has_no_scores_and_spoils_no_other() -> None:
    values = np.random.default_rng(0).standard_normal((2, 2 * PART)).astype(np.float32)
    values[0, 5] = np.nan
    tokens, scores = found(values, [4, 4])
    assert np.isnan(scores[0]).all()
    assert tokens[1] == best_places(values[1], 4).tolist()
