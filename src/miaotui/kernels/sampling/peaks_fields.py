"""Fields of the search for the best logits. Plain numbers; imports no compiler.

Also the layout of its results: `PEAK_FIELDS` int64 fields for each row of logits.
"""

from __future__ import annotations

X = 3  # logits, float32
X_STRIDE = 4
WIDTH = 5  # logits of a row, however many; what lies behind them is not read
PARTS = 6  # the peak of each part of a row, float32; then of each the peak of what its mask leaves
PARTS_STRIDE = 7
OUT = 8  # the peaks found
MASKED = 10  # 1: the tokens of some rows may be masked
LISTED = 9  # int32 ids of the tokens that a draft head has logits for

PART = 512  # logits whose peak is found at a time: small enough for the first-level cache

PEAK_FIELDS = 2
PEAK_ID = 0  # the first of the highest logits; the first NaN, if there is one
PEAK_VALUE = 1  # its logit: a float32 in the low half


def parts_of(width: int) -> int:
    """Return the number of parts of a row of ``width`` logits."""
    return (width + PART - 1) // PART
