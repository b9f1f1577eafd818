"""Kernel that reads memory at full speed: the yardstick for every memory-bound kernel.

Each thread reads its share in 64-byte lines, with the prefetch distance of the matrix products. It combines the
values, so that the compiler cannot leave the reads out.
"""

from __future__ import annotations

from typing import Any

from miaotui.kernels.platform.reading_fields import BYTES, BYTES_PER_UNIT, SOURCE
from miaotui.kernels.runtime.compiler import kernel
from miaotui.kernels.runtime.memory import peek, poke
from miaotui.kernels.runtime.ops import RUN_SCRATCH, RUN_SCRATCH_STRIDE, RUN_TEAM, SLOT
from miaotui.kernels.runtime.simd import I32, I32X, I64, Emitter, Value, intrinsic
from miaotui.kernels.runtime.sync import claim, claim_end, claim_first

_AHEAD = 2048


def _read_block(e: Emitter, address: Value, size: Value) -> Value:
    """Return the exclusive or of a block's 32-bit words."""

    def step(index: Value, carried: list[Value]) -> list[Value]:
        at = address + (index << 8)
        for part in range(4):
            e.prefetch(at + (64 * part + _AHEAD))
        return [total ^ e.load(at + 64 * part, I32X, 64) for part, total in enumerate(carried)]

    parts = e.loop(size >> 8, [e.const(I32X, 0)] * 4, step)
    combined = (parts[0] ^ parts[1]) ^ (parts[2] ^ parts[3])
    assert combined.type.element == I32
    return e.widen(e.reduce(combined, lambda a, b: a ^ b), I64)


read_block: Any = intrinsic(_read_block, "ii", "i")


@kernel()
def read_memory(op, run, member):  # type: ignore[no-untyped-def]
    """Read ``BYTES`` bytes from ``SOURCE``. The threads of the pool share the range."""
    team, slot = peek(run, RUN_TEAM), peek(op, SLOT)
    units = peek(op, BYTES) // BYTES_PER_UNIT
    total = 0
    claimed = claim(run, slot, member, team, units)
    while claimed >= 0:
        for index in range(claim_first(claimed), claim_end(claimed)):
            total ^= read_block(peek(op, SOURCE) + index * BYTES_PER_UNIT, BYTES_PER_UNIT)
        claimed = claim(run, slot, member, team, units)
    poke(peek(run, RUN_SCRATCH) + member * peek(run, RUN_SCRATCH_STRIDE), 0, total)
    return 1
