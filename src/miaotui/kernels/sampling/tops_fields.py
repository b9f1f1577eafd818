"""Fields of the search for a row's best tokens, and the layout of its results. Plain numbers; imports no compiler."""

from __future__ import annotations

X = 3  # logits, float32; whole vectors of 16 are read
X_STRIDE = 4
WIDTH = 5  # logits of a row, however many
PARTS = 6  # the peak of each part of a row, then each part's sum of exponentials, both float32
PARTS_STRIDE = 7
OUT = 8  # a record for each row of logits

MOST = 64  # tokens of a record, best first
RECORD_FIELDS = 2 + 2 * MOST
RECORD_COUNT = 0  # how many were found
RECORD_TOTAL = 1  # sum of the exponentials of all logits less the highest: a float32 in the low half
RECORD_TOKENS = 2  # pairs of a token and its logit (float32 in the low half)
