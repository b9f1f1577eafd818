"""Fields of a matrix product in the table of operations. Plain numbers; imports no compiler."""

from __future__ import annotations

WEIGHTS = 3
TILE_STRIDE = 4
GROUPS = 5
UNITS = 6
X = 7
X_STRIDE = 8
HEADERS = 9
HEADER_STRIDE = 10

# what becomes of the outputs
STORE, ADD, GATED_SILU, GATED_GELU = range(4)

MODE = 11
OUT = 12
OUT_STRIDE = 13
BIAS = 14  # address of float32, or 0
OUT_HEADERS = 15  # gated: where the quantized result's headers go
OUT_HEADER_STRIDE = 16

# inputs of few rows, which each thread has made for itself
OWN_ROWS = 17  # up to how many; 0: inputs are always shared
OWN_HEADERS_AT = 18  # where in its own memory their headers begin
