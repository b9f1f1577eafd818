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
STORE, ADD = range(2)
GATED_SILU, GATED_GELU, GATED_GELU_ERF, GATED_CLAMPED = range(2, 6)  # a matrix of gate and up, in alternating units
SILU, GELU, GELU_ERF, RELU, TANH = range(6, 11)  # an activation without a gate; GELU is the tanh form

MODE = 11
OUT = 12
OUT_STRIDE = 13
BIAS = 14  # address of float32, or 0; gated: 32 of gate, 32 of up, and so on
OUT_HEADERS = 15  # after an activation: where the quantized result's headers go; 0: the result is float32
OUT_HEADER_STRIDE = 16

# inputs of few rows, which each thread has made for itself
OWN_ROWS = 17  # up to how many; 0: inputs are always shared
OWN_HEADERS_AT = 18  # where in its own memory their headers begin


def is_gated(mode: int) -> bool:
    """Return whether a unit of the product is 32 outputs of gate and 32 of up."""
    return GATED_SILU <= mode < SILU
