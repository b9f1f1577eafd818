"""Claiming and meeting: each unit goes to one thread, and nobody goes on before all are done."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from deadline import within
from emitted import linked
from numpy.typing import NDArray

from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.compiler import Kernel, compile_kernel, kernel
from miaotui.kernels.runtime.memory import atomic_add, atomic_load, pause, peek
from miaotui.kernels.runtime.ops import RUN_TEAM, SLOT
from miaotui.kernels.runtime.sync import claim, claim_end, claim_first
from miaotui.kernels.runtime.thread_pool import ThreadPool, address_of, aligned_int64

UNITS, COUNTS, PAUSES, WANTED, MISSES = 3, 4, 5, 6, 7  # fields
MOST_UNITS = 300
PATIENCE_S = 60


@kernel()
def count_units(op, run, member):  # type: ignore[no-untyped-def]
    """Count every claim of each unit; some units take long."""
    units = peek(op, UNITS)
    claimed = claim(run, peek(op, SLOT), member, peek(run, RUN_TEAM), units)
    while claimed >= 0:
        for unit in range(claim_first(claimed), claim_end(claimed)):
            for _ in range(peek(peek(op, PAUSES), unit)):
                pause()
            atomic_add(peek(op, COUNTS) + 8 * unit, 1)
        claimed = claim(run, peek(op, SLOT), member, peek(run, RUN_TEAM), units)
    return 1


@kernel()
def check_counts(op, run, member):  # type: ignore[no-untyped-def]
    """Every thread looks whether every unit has been done as often as it should."""
    for unit in range(peek(op, UNITS)):
        if atomic_load(peek(op, COUNTS) + 8 * unit) != peek(op, WANTED):
            atomic_add(peek(op, MISSES), 1)
    return 1


@functools.cache
def address(name: str) -> int:
    definition = {"count_units": count_units, "check_counts": check_counts}[name]
    assert isinstance(definition, Kernel)
    return linked(compile_kernel(definition, name), name)


class Counting:
    """A random program: counts of random numbers of units, each checked after its meeting."""

    def __init__(self, rng: np.random.Generator, counts: int) -> None:
        self.rng = rng
        self.units = rng.choice([0, 1, 2, 7, 8, 9, 31, 64, MOST_UNITS], counts)
        self.done = aligned_int64(counts * MOST_UNITS).reshape(counts, MOST_UNITS)
        self.pauses = aligned_int64(counts * MOST_UNITS).reshape(counts, MOST_UNITS)
        self.misses = aligned_int64(1)
        self.table = self._table()
        self.wanted = self.table[1::2, WANTED]

    def _table(self) -> NDArray[np.int64]:
        table = aligned_int64(2 * len(self.units) * ops.OP_FIELDS).reshape(-1, ops.OP_FIELDS)
        table[0::2, ops.FUNCTION] = address("count_units")
        table[1::2, ops.FUNCTION] = address("check_counts")
        table[:, SLOT] = np.arange(len(table)) % ops.CLAIM_SLOTS
        for field, values in ((COUNTS, self.done), (PAUSES, self.pauses)):
            table[:, field] = np.repeat([address_of(row) for row in values], 2)
        table[:, UNITS] = np.repeat(self.units, 2)
        table[:, MISSES] = address_of(self.misses)
        return table

    def run(self, team: ThreadPool, run: NDArray[np.int64]) -> None:
        """One pass; which units take long changes from pass to pass."""
        self.wanted += 1
        self.pauses[:] = (self.rng.random(self.pauses.shape) < 0.02) * 200
        team.run(address_of(self.table), len(self.table), run)

    def check(self) -> None:
        assert not self.misses[0], "a thread went on too early"
        for units, done, wanted in zip(self.units, self.done, self.wanted, strict=True):
            assert (done[:units] == wanted).all()
            assert not done[units:].any()


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_every_unit_is_done_once_before_anyone_goes_on(threads: int) -> None:
    rng = np.random.default_rng(threads)
    team = ThreadPool(threads)
    run = aligned_int64(ops.RUN_FIELDS)

    def passes() -> None:
        for _ in range(12):
            program = Counting(rng, counts=int(rng.integers(1, 9)))
            for _ in range(12):
                program.run(team, run)
            program.check()

    within(PATIENCE_S, passes)
    team.close()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_operations_may_share_a_meeting(threads: int) -> None:
    """All counts but the last keep going; whoever checks afterwards sees all of them done."""
    rng = np.random.default_rng(threads)
    team = ThreadPool(threads)
    run = aligned_int64(ops.RUN_FIELDS)

    def passes() -> None:
        for _ in range(100):
            program = Counting(rng, counts=3)
            order = [0, 2, 4, 1, 3, 5]
            program.table[:] = program.table[order]
            program.table[:, SLOT] = np.arange(6) % ops.CLAIM_SLOTS
            program.table[:2, ops.KEEP_GOING] = 1
            program.wanted = program.table[3:, WANTED]
            program.run(team, run)
            program.check()

    within(PATIENCE_S, passes)
    team.close()
