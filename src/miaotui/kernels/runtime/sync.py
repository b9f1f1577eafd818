"""Work sharing in a pass: threads claim units and meet at barriers between operations.

Each thread owns an equal, contiguous range of an operation's units (so memory streams forward) and claims chunks of
it. A thread that is done claims chunks from the ranges of others. Waiting threads spin, then yield the core, then
sleep in short naps. Follows the sense-reversing barrier (Mellor-Crummey and Scott 1991, section 3.1) with a
generation number as sense.
"""

from __future__ import annotations

from typing import Any

from miaotui.kernels.runtime.compiler import inline
from miaotui.kernels.runtime.memory import atomic_add, atomic_load, atomic_store, doze, pause, peek, poke, yield_core
from miaotui.kernels.runtime.ops import (
    CLAIM_SLOTS,
    LINE_FIELDS,
    MAX_TEAM,
    OWN_BYTES,
    RUN_SCRATCH,
    RUN_SCRATCH_STRIDE,
    RUN_SYNC,
    RUN_TEAM,
    SYNC_ARRIVED,
    SYNC_CLAIMS,
    SYNC_GENERATION,
)

SPINS = 4000  # about a tenth of a millisecond: longer than any wait on a quiet machine
YIELDS = 4000  # over a millisecond: longer than any imbalance of our own
CHUNKS = 8  # per thread and operation: the grain of stealing
_STEP = 1 << 20  # a claim's packing: first unit * _STEP + one past the last


@inline
def claim_some(run, slot, member, team, units, chunk):  # type: ignore[no-untyped-def]
    """Claim the next ``chunk`` units or fewer. Returns ``first * 2**20 + end``, or -1 when all are taken."""
    counters = peek(run, RUN_SYNC) + 8 * (SYNC_CLAIMS + slot * MAX_TEAM * LINE_FIELDS)
    for distance in range(team):
        owner = member + distance
        if owner >= team:
            owner -= team
        start, end = units * owner // team, units * (owner + 1) // team
        counter = counters + 8 * LINE_FIELDS * owner
        if peek(counter, 0) >= end - start:
            continue
        first = start + atomic_add(counter, chunk)
        if first < end:
            last = first + chunk
            if last > end:
                last = end
            return first * _STEP + last
    return -1


@inline
def usual_chunk(units, team):  # type: ignore[no-untyped-def]
    """Return how many units are claimed at once by default."""
    return max(units // (team * CHUNKS), 1)


def _claim(run: Any, slot: Any, member: Any, team: Any, units: Any) -> Any:
    """Claim a chunk of the usual size, see `claim_some`."""
    return claim_some(run, slot, member, team, units, usual_chunk(units, team))


def _barrier(run: Any) -> Any:
    """Wait until every thread is here. The last one clears the claims."""
    team = peek(run, RUN_TEAM)
    sync = peek(run, RUN_SYNC)
    if team == 1:
        for slot in range(CLAIM_SLOTS):
            poke(sync, SYNC_CLAIMS + slot * MAX_TEAM * LINE_FIELDS, 0)
        return 0
    generation = atomic_load(sync + 8 * SYNC_GENERATION)
    if atomic_add(sync + 8 * SYNC_ARRIVED, 1) == team - 1:
        poke(sync, SYNC_ARRIVED, 0)
        for slot in range(CLAIM_SLOTS):
            for member in range(team):
                poke(sync, SYNC_CLAIMS + (slot * MAX_TEAM + member) * LINE_FIELDS, 0)
        atomic_store(sync + 8 * SYNC_GENERATION, generation + 1)
        return 0
    return wait_for_change(sync, generation)


def _wait_for_change(sync: Any, generation: Any) -> Any:
    turns = 0
    while atomic_load(sync + 8 * SYNC_GENERATION) == generation:
        turns += 1
        if turns < SPINS:
            pause()
        elif turns < SPINS + YIELDS:
            yield_core()
        else:
            doze()
    return 0


wait_for_change = inline(_wait_for_change)
claim = inline(_claim)
barrier = inline(_barrier)


@inline
def claim_first(claimed):  # type: ignore[no-untyped-def]
    """Return the first unit of a claim."""
    return claimed >> 20


@inline
def claim_end(claimed):  # type: ignore[no-untyped-def]
    """Return one past the last unit of a claim."""
    return claimed & (_STEP - 1)


@inline
def own_memory(run, member):  # type: ignore[no-untyped-def]
    """Return the address of memory that one thread alone uses between operations."""
    return peek(run, RUN_SCRATCH) + (member + 1) * peek(run, RUN_SCRATCH_STRIDE) - OWN_BYTES
