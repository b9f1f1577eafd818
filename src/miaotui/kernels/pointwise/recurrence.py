"""A recurrent unit over the rows of targets: the SSRU that Marian's decoders have in place of self-attention.

A state is ``f * state before + (1 - f) * candidate`` with ``f = sigmoid(gate)``; ``relu`` of it is added to the
residual stream. Every token of a target has a slot with its state, and a row finds the one before it by its list of
slots, so beams share states and nothing is copied. Threads share out columns, and each takes the rows in order: rows of
one target may follow each other. So a row's result depends on its own target alone. Source: Kim et al. 2019, "From
Research to Production and Back: Ludicrously Fast Neural Machine Translation", section 3.1.
"""

from __future__ import annotations

from typing import Any

from miaotui.kernels.pointwise.recurrence_fields import (
    FIRST_STATE,
    OUT,
    OUT_STRIDE,
    STATE_STRIDE,
    STATES,
    WIDTH,
    X_STRIDE,
    X,
)
from miaotui.kernels.runtime.arithmetic import exp, relu
from miaotui.kernels.runtime.compiler import kernel
from miaotui.kernels.runtime.memory import peek
from miaotui.kernels.runtime.ops import ROW_FIELDS, ROW_PAGES, ROW_POSITION, RUN_ROW_TABLE, RUN_ROWS, RUN_TEAM, SLOT
from miaotui.kernels.runtime.simd import F32X, Emitter, Value, intrinsic
from miaotui.kernels.runtime.sync import claim, claim_end, claim_first

UNIT_BYTES = 128  # of a row's 32 values


def _remember32(e: Emitter, gate: Value, candidate: Value, before: Value, state: Value, out: Value) -> None:
    """Emit 32 values of a row's state, and add them, activated, to the residual stream."""
    for offset in (0, 64):
        share = e.const(F32X, 1.0) / (exp(e, e.const(F32X, 0.0) - e.load(gate + offset, F32X, 4)) + 1.0)
        new = e.load(candidate + offset, F32X, 4)
        found = e.fma(share, e.load(before + offset, F32X, 4) - new, new)
        e.store(found, state + offset, 4)
        e.store(e.load(out + offset, F32X, 4) + relu(e, found), out + offset, 4)


remember32: Any = intrinsic(_remember32, "iiiii")


@kernel()
def remember(op, run, member):  # type: ignore[no-untyped-def]
    """Compute the states of all rows of the pass."""
    width, table, rows = peek(op, WIDTH), peek(run, RUN_ROW_TABLE), peek(run, RUN_ROWS)
    team, slot, units = peek(run, RUN_TEAM), peek(op, SLOT), width // 32
    claimed = claim(run, slot, member, team, units)
    while claimed >= 0:
        for unit in range(claim_first(claimed), claim_end(claimed)):
            at = unit * UNIT_BYTES
            states = peek(op, STATES) + at
            for row in range(rows):
                entry = table + 8 * ROW_FIELDS * row
                position, slots = peek(entry, ROW_POSITION), peek(entry, ROW_PAGES)
                before = peek(op, FIRST_STATE) + at
                if position > 0:
                    before = states + peek(slots, position - 1) * peek(op, STATE_STRIDE)
                gate = peek(op, X) + row * peek(op, X_STRIDE) + at
                state = states + peek(slots, position) * peek(op, STATE_STRIDE)
                out = peek(op, OUT) + row * peek(op, OUT_STRIDE) + at
                remember32(gate, gate + 4 * width, before, state, out)
        claimed = claim(run, slot, member, team, units)
    return 1
