"""Running a pass: each operation of the program in turn, by every thread of the team, with a meeting where one is needed.

`pass_member` is what the caller's thread runs; `pass_worker` is the loop of the other threads: it waits for a run at its
mailbox, spinning for a bounded time, and returns to Python (to sleep) when none comes.
"""

from __future__ import annotations

from miaotui.kernels.compiler import inline, kernel
from miaotui.kernels.memory import atomic_add, atomic_load, atomic_store, call, pause, peek, poke
from miaotui.kernels.ops import FUNCTION, LINE_FIELDS, OP_FIELDS, RUN_TEAM
from miaotui.kernels.sync import barrier

# the mailbox: one line per field
MAIL_NUMBER = 0  # how many runs were posted
MAIL_OPS = LINE_FIELDS
MAIL_COUNT = LINE_FIELDS + 1
MAIL_RUN = LINE_FIELDS + 2
MAIL_STOP = LINE_FIELDS + 3
MAIL_ASLEEP = 2 * LINE_FIELDS
MAIL_FIELDS = 3 * LINE_FIELDS


@inline
def run_operations(ops, count, run, member):  # type: ignore[no-untyped-def]
    """The program, as one member of the team."""
    for index in range(count):
        op = ops + 8 * OP_FIELDS * index
        if call(peek(op, FUNCTION), op, run, member) == 1:
            barrier(run)
    barrier(run)
    return 0


@kernel(4)
def pass_alone(ops, count, run, member):  # type: ignore[no-untyped-def]
    """A pass by the calling thread alone."""
    return run_operations(ops, count, run, member)


@kernel(4)
def pass_post(ops, count, run, mail):  # type: ignore[no-untyped-def]
    """Post a run to the workers and take part as member 0. Returns when every member is done."""
    poke(mail, MAIL_OPS, ops)
    poke(mail, MAIL_COUNT, count)
    poke(mail, MAIL_RUN, run)
    atomic_store(mail + 8 * MAIL_NUMBER, peek(mail, MAIL_NUMBER) + 1)
    return run_operations(ops, count, run, 0)


@kernel(4)
def pass_worker(mail, member, seen, spins):  # type: ignore[no-untyped-def]
    """Serve posted runs as ``member`` until none comes for ``spins`` turns; returns the number of the last run seen."""
    turns = 0
    while turns < spins:
        number = atomic_load(mail + 8 * MAIL_NUMBER)
        if number == seen:
            turns += 1
            pause()
            continue
        seen = number
        turns = 0
        if peek(mail, MAIL_STOP) == 1:
            return -1
        run = peek(mail, MAIL_RUN)
        if member < peek(run, RUN_TEAM):
            run_operations(peek(mail, MAIL_OPS), peek(mail, MAIL_COUNT), run, member)
    atomic_add(mail + 8 * MAIL_ASLEEP, 1)
    return seen
