"""Sampling in the pass: the threads that computed the logits also draw the tokens.

`choose_rows` handles each wanted row whose sequence samples, and puts the drawn token in the place of the best one.
How a sequence samples is a table of its own (`draw_fields`), and the position is the row's. So nothing is carried
over from step to step. Invariant: the token is the one that `draw.draw` gives for the same logits, peak and key, bit
for bit; a row whose peak is not a number stays as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import load_float, peek, poke
from miaotui.kernels.runtime.ops import (
    ROW_CHOICE,
    ROW_FIELDS,
    ROW_POSITION,
    ROWS,
    RUN_DRAW,
    RUN_DRAW_STRIDE,
    RUN_LOGIT_TABLE,
    RUN_ROW_TABLE,
    RUN_TEAM,
    SLOT,
)
from miaotui.kernels.runtime.sync import claim, claim_end, claim_first
from miaotui.kernels.sampling.draw import drawn
from miaotui.kernels.sampling.draw_fields import (
    CHOICE_LEAST,
    CHOICE_MASK,
    CHOICE_NOISY,
    CHOICE_SCALE,
    CHOICE_START,
    CHOICE_TOP_K,
    CHOICE_TOP_P,
    KEY_HIGH,
    KEY_LOW,
    LEAST,
    NOT_HERE,
    NUMBERS,
    PEAK,
    SCALE,
    SPREAD,
    TOP_K,
    TOP_P,
    WEIGHT_BITS,
)
from miaotui.kernels.sampling.peaks_fields import OUT, PEAK_FIELDS, PEAK_ID, PEAK_VALUE, WIDTH, X_STRIDE, X
from miaotui.kernels.sampling.weights import doubles, floats

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_LOW = np.uint64(0xFFFFFFFF)
_INFINITY = np.float32(np.inf)


@inline
def noise_key(start: Any, position: Any) -> Any:
    """Return the key of ``backends.sampling.noise_key``, from the seed's start value."""
    value = np.uint64(start) + np.uint64(position + 1) * _GAMMA
    value = (value ^ (value >> np.uint64(30))) * _FIRST
    value = (value ^ (value >> np.uint64(27))) * _SECOND
    return value ^ (value >> np.uint64(31))


@inline
def key_of(choice, row):  # type: ignore[no-untyped-def]
    """Return the key of the token that follows a row."""
    return noise_key(peek(choice, CHOICE_START), peek(row, ROW_POSITION) + 1)


@inline
def _spread(values: Any, peak: Any, scale: Any) -> Any:
    """Return the distance from the peak to the least logit, for a draw with filters."""
    least = _INFINITY
    for j in range(values.size):
        least = min(least, values[j])
    distance = (np.float64(peak) - np.float64(least)) * scale
    return min(max(distance, 1e-6), np.float64(WEIGHT_BITS + 1))


@inline
def _fill(numbers: Any, choice: Any, key: Any, peak: Any, values: Any) -> None:
    """Fill the fields that a draw reads."""
    given = doubles(choice, CHOICE_LEAST + 1)
    scale, top_k, top_p = given[CHOICE_SCALE], given[CHOICE_TOP_K], given[CHOICE_TOP_P]
    spread = np.float64(WEIGHT_BITS + 1)
    if top_p < 1.0 or top_k > 0.0:
        spread = _spread(values, peak, scale)
    numbers[PEAK], numbers[SCALE], numbers[SPREAD] = np.float64(peak), scale, spread
    numbers[TOP_K], numbers[TOP_P], numbers[LEAST] = top_k, top_p, given[CHOICE_LEAST]
    numbers[KEY_LOW] = np.float64(key & _LOW)
    numbers[KEY_HIGH] = np.float64(key >> np.uint64(32))


@kernel()
def choose_rows(op, run, member):  # type: ignore[no-untyped-def]
    """Draw the tokens of rows whose sequences sample."""
    rows, width = peek(run, peek(op, ROWS)), peek(op, WIDTH)
    memory = peek(run, RUN_DRAW) + member * peek(run, RUN_DRAW_STRIDE)
    team, slot = peek(run, RUN_TEAM), peek(op, SLOT)
    claimed = claim(run, slot, member, team, rows)
    while claimed >= 0:
        for index in range(claim_first(claimed), claim_end(claimed)):
            source = peek(run, RUN_LOGIT_TABLE) + 8 * index
            row = peek(run, RUN_ROW_TABLE) + 8 * ROW_FIELDS * peek(source, 0)
            choice = peek(row, ROW_CHOICE)
            if choice == 0 or peek(choice, CHOICE_NOISY) == 0 or peek(choice, CHOICE_MASK) == NOT_HERE:
                continue
            out = peek(op, OUT) + 8 * PEAK_FIELDS * index
            peak = load_float(out + 8 * PEAK_VALUE)
            if not (-_INFINITY < peak < _INFINITY):
                continue
            logits = peek(op, X) + index * peek(op, X_STRIDE)
            values, numbers = floats(logits, width), doubles(memory, NUMBERS)
            _fill(numbers, choice, key_of(choice, row), peak, values)
            poke(out, PEAK_ID, drawn(values, numbers, memory + 8 * NUMBERS))
        claimed = claim(run, slot, member, team, rows)
    return 1
