"""Running a pass: each operation of the program in turn, on every thread, with barriers where needed.

`pass_announce` posts a run, `pass_member` takes part in it, and `pass_worker` is the loop of the other threads: it
waits for a run at the mailbox, spins for a bounded time, and returns to Python (to sleep) if none comes. The number
of a run says how many threads take part, so the others read nothing that may change.
"""

from __future__ import annotations

from miaotui.kernels.draft.draft_fields import COUNT, HEAD_RUN, TABLE
from miaotui.kernels.draft.multistep import STEP, begin_draft, extend_draft
from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import atomic_load, atomic_store, call, pause, peek, poke
from miaotui.kernels.runtime.multistep import step_on
from miaotui.kernels.runtime.ops import (
    FUNCTION,
    KEEP_GOING,
    MAIL_ASLEEP,
    MAIL_COUNT,
    MAIL_NUMBER,
    MAIL_OPERATIONS,
    MAIL_RUN,
    MAIL_STOP,
    OP_FIELDS,
    RUN_DRAFT,
    RUN_MORE,
    RUN_PASSES,
    TEAM_BITS,
)
from miaotui.kernels.runtime.prefetch import ask_ahead
from miaotui.kernels.runtime.sync import barrier

_TEAM_MASK = (1 << TEAM_BITS) - 1


@inline
def run_once(operations, count, run, member):  # type: ignore[no-untyped-def]
    """Run the operations one after another as one member. Returns when all members have finished."""
    for index in range(count):
        op = operations + 8 * OP_FIELDS * index
        shared = call(peek(op, FUNCTION), op, run, member)
        ask_ahead(op, run, member)
        if shared == 1 and peek(op, KEEP_GOING) == 0:
            barrier(run)
    barrier(run)


@inline
def draft_on(run, draft, member):  # type: ignore[no-untyped-def]
    """Run as many steps of the draft head as follow each other."""
    while peek(run, RUN_MORE) == STEP:
        run_once(peek(draft, TABLE), peek(draft, COUNT), peek(draft, HEAD_RUN), member)
        if member == 0:
            extend_draft(run, draft)
        barrier(run)


@inline
def run_operations(operations, count, run, member):  # type: ignore[no-untyped-def]
    """Run the program as one member, for as many passes as follow each other.

    Reads the number of passes first: the leader may change the run once all members have finished. For the same
    reason they meet before the leader decides what comes next.
    """
    passes, draft = peek(run, RUN_PASSES), peek(run, RUN_DRAFT)
    if draft != 0:
        barrier(run)
        if member == 0:
            begin_draft(run, draft)
        barrier(run)
        draft_on(run, draft, member)
    while True:
        run_once(operations, count, run, member)
        if passes <= 1:
            return 0
        if member == 0:
            step_on(run)
        barrier(run)
        if draft != 0:
            draft_on(run, draft, member)
        if peek(run, RUN_MORE) == 0:
            return 0


@kernel(4)
def pass_member(operations, count, run, member):  # type: ignore[no-untyped-def]
    """Take part in a run. Returns when every member is done."""
    return run_operations(operations, count, run, member)


@kernel(5)
def pass_announce(operations, count, run, mail, team):  # type: ignore[no-untyped-def]
    """Post a run for ``team`` threads. Returns how many of them sleep and must be woken."""
    poke(mail, MAIL_OPERATIONS, operations)
    poke(mail, MAIL_COUNT, count)
    poke(mail, MAIL_RUN, run)
    number = (peek(mail, MAIL_NUMBER) >> TEAM_BITS) + 1
    atomic_store(mail + 8 * MAIL_NUMBER, (number << TEAM_BITS) + team)
    asleep = 0
    for member in range(1, team):
        asleep += atomic_load(mail + 8 * (MAIL_ASLEEP + member))
    return asleep


@kernel(4)
def pass_worker(mail, member, seen, spins):  # type: ignore[no-untyped-def]
    """Serve runs as ``member`` until none comes for ``spins`` turns.

    Returns the number of the last run seen, or -1 to end. A member marks itself asleep and looks once more before it
    leaves. The leader posts first and reads the marks afterwards, so one of the two always sees the other.
    """
    asleep = mail + 8 * (MAIL_ASLEEP + member)
    atomic_store(asleep, 0)
    turns = 0
    while turns <= spins:
        number = atomic_load(mail + 8 * MAIL_NUMBER)
        if number == seen:
            turns += 1
            if turns == spins:
                atomic_store(asleep, 1)
            pause()
            continue
        atomic_store(asleep, 0)
        seen = number
        turns = 0
        if peek(mail, MAIL_STOP) == 1:
            return -1
        if member < (number & _TEAM_MASK):
            run_operations(peek(mail, MAIL_OPERATIONS), peek(mail, MAIL_COUNT), peek(mail, MAIL_RUN), member)
    return seen
