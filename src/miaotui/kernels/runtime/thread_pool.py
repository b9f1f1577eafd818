"""Thread pool: Python threads that run compiled passes together, without the interpreter lock.

One pool serves the whole process; models take turns. Between passes a thread spins for a bounded time, then sleeps on
an event. If another process keeps a core busy, all threads wait for the slowest one at every barrier, and one thread
alone is faster. The operating system does not report this, so `Pace` runs trials: when passes become much slower than
before, and now and then anyway, a few passes run with one thread and with all in turns, and the faster way is kept for
a while.

Linux may wake a thread on the core of the one that wakes it, which goes on computing; it then waits there for
milliseconds while another core idles. So threads are kept off the caller's core before they are woken (`keep_apart`).
Invariant: a thread that has woken may run on every core that the thread which woke it may run on. Systems that cannot
say so change nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.kernels.platform.cpu import probe
from miaotui.kernels.runtime import compiled
from miaotui.kernels.runtime.ops import (
    MAIL_FIELDS,
    MAIL_NUMBER,
    MAIL_STOP,
    MAX_TEAM,
    OWN_BYTES,
    RUN_DONE,
    RUN_ROWS,
    RUN_SCRATCH,
    RUN_SCRATCH_STRIDE,
    RUN_SYNC,
    RUN_TEAM,
    SYNC_FIELDS,
    TEAM_BITS,
)

HUGE_PAGE = 2 << 20
SCRATCH_BYTES = 1 << 20  # per thread: 8 rows x 8 query heads of 512, and every smaller need
_STRIDE = SCRATCH_BYTES + OWN_BYTES
_MOST_RUNS = 16  # remembered: an engine has one, and its draft head another
MOST_THREADS = 16  # that are placed: more find free cores, and each costs a system call
IDLE_SPINS = 20_000  # about a millisecond
REST_S = 0.1  # between passes: what kept a core busy before may have ended

KERNELS = ("runtime.passes:pass_announce", "runtime.passes:pass_member", "runtime.passes:pass_worker")


class ThreadPool:
    """Pool of ``size`` threads, including the caller's. `run` may be called from any thread; calls take turns."""

    def __init__(self, size: int | None = None) -> None:
        self.size = max(1, min(size or probe().team_size, MAX_TEAM))
        self._announce = compiled.function(KERNELS[0], 5, brief=True)
        self._member = compiled.function(KERNELS[1], 4)
        self._brief_member = compiled.function(KERNELS[1], 4, brief=True)
        self._worker = compiled.function(KERNELS[2], 4)
        self._sync, self._mail = aligned_int64(SYNC_FIELDS), aligned_int64(MAIL_FIELDS)
        self._scratch = np.zeros(self.size * _STRIDE + 64, np.uint8)
        self._scratch_address = -(-self._scratch.ctypes.data // 64) * 64
        self._addresses = address_of(self._sync), address_of(self._mail)
        # By identity: a table, kept alive; the team's size when it was taken in; its address.
        self._runs: dict[int, tuple[NDArray[np.int64], int, int]] = {}
        self._turn = threading.Lock()
        self._wakeups = [threading.Event() for _ in range(self.size)]
        self._cores: frozenset[int] = frozenset()  # of the threads that were woken last
        self._pace, self._ended_s = Pace(), time.perf_counter()
        self._threads = [
            threading.Thread(target=self._serve, args=(member,), name=f"miaotui-{member}", daemon=True)
            for member in range(1, self.size)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_alone(self) -> bool:
        """Return whether one thread does the work now, trials aside, because other processes use the cores."""
        return self._pace.kept

    @property
    def is_trying(self) -> bool:
        """Return whether a trial of `Pace` is running, which needs passes one by one."""
        return self._pace.is_trying

    def run(
        self,
        operations: int,
        count: int,
        run: NDArray[np.int64],
        passes: int = 1,
        brief: bool = False,
        beside: NDArray[np.int64] | None = None,
    ) -> None:
        """Run a program of ``count`` operations at address ``operations`` over the rows that ``run`` describes.

        Makes up to ``passes`` passes, as many as ``run`` says. A ``brief`` run keeps the interpreter lock, which
        other threads would hold for longer than the run takes, unless a thread must be woken.

        A run's table is used with one pool only, which writes its own fields there. The same holds for the table
        ``beside`` it, which a draft head uses within the run.
        """
        with self._turn:
            start_s = time.perf_counter()
            if start_s - self._ended_s > REST_S:
                self._pace.rested()
            size = 1 if self._pace.is_alone_for(int(run[RUN_ROWS])) else self.size
            mail = self._addresses[1]
            known = self._runs.get(id(run))
            address = known[2] if known and known[1] == size else self._take_in(run, size)
            if beside is not None:
                self._take_in(beside, size)
            member = self._brief_member if brief else self._member
            if size > 1 and self._announce(operations, count, address, mail, size):
                member = self._member
                self._wake()
            member(operations, count, address, 0)
            if self.size > 1:
                done = int(run[RUN_DONE]) if passes > 1 else 1
                self._ended_s = time.perf_counter()
                spent_s = self._ended_s - start_s
                kind = (operations, int(run[RUN_ROWS])) if beside is None else (-operations, 1)
                self._pace.note(kind, spent_s / done, done)

    def _take_in(self, run: NDArray[np.int64], size: int) -> int:
        """Write the pool's fields to the table of a run. Returns its address."""
        if len(self._runs) >= _MOST_RUNS:
            self._runs.clear()
        run[RUN_TEAM], run[RUN_SYNC] = size, self._addresses[0]
        run[RUN_SCRATCH], run[RUN_SCRATCH_STRIDE] = self._scratch_address, _STRIDE
        address = address_of(run)
        self._runs[id(run)] = run, size, address
        return address

    def _wake(self) -> None:
        """Wake the threads that sleep, on other cores than the caller's, who computes at once."""
        if len(self._threads) <= MOST_THREADS:
            self._cores = keep_apart(thread.native_id for thread in self._threads if thread.native_id)
        for event in self._wakeups:
            event.set()

    def _serve(self, member: int) -> None:
        mail, seen, event = self._addresses[1], 0, self._wakeups[member]
        while (seen := self._worker(mail, member, seen, IDLE_SPINS)) >= 0:
            event.wait()
            event.clear()
            spread(self._cores)

    def close(self) -> None:
        """End the threads. The pool must not run again."""
        with self._turn:
            self._mail[MAIL_STOP] = 1
            self._mail[MAIL_NUMBER] += 1 << TEAM_BITS
            for event in self._wakeups:
                event.set()
        for thread in self._threads:
            thread.join()


_shared: dict[int, ThreadPool] = {}
_shared_lock = threading.Lock()


def shared_pool(size: int | None = None) -> ThreadPool:
    """Return the process's pool of that size. Every model uses the same threads."""
    wanted = max(1, min(size or probe().team_size, MAX_TEAM))
    with _shared_lock:
        if wanted not in _shared:
            _shared[wanted] = ThreadPool(wanted)
        return _shared[wanted]


def aligned_int64(fields: int) -> NDArray[np.int64]:
    """Return zeroed int64 memory that begins on a cache line."""
    return aligned_bytes(fields * 8).view(np.int64)


def fields_of(table: NDArray[np.int64]) -> memoryview:
    """Return a view of a table's fields that Python fills much faster than a NumPy array."""
    return memoryview(table.reshape(-1).data)


def aligned_bytes(size_bytes: int, alignment: int = 64) -> NDArray[np.uint8]:
    """Return zeroed memory at a multiple of ``alignment``."""
    raw = np.zeros(size_bytes + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size_bytes]


def huge_bytes(size_bytes: int) -> NDArray[np.uint8]:
    """Return zeroed memory at a multiple of 2 MiB, in huge pages where the system offers them.

    The system reserves it when it is touched.
    """
    size = -(-size_bytes // HUGE_PAGE) * HUGE_PAGE + HUGE_PAGE
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # not offered here
            memory.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(memory, np.uint8)
    start = -raw.ctypes.data % HUGE_PAGE
    return raw[start : start + size_bytes]


def address_of(array: NDArray[Any]) -> int:
    """Return the byte address of an array's first value."""
    return int(array.ctypes.data)


TROUBLE = 1.4  # a pass this much slower than the best is one sign of trouble
DISTRESS = 2.5  # and this much slower are two
SIGNS = 4  # signs that start a trial; twice as many after each trial in vain
MOST_SIGNS = 64
TRIAL = 6  # passes of a trial, either way
BETTER = 0.92  # of the team's time: what one thread alone must take to be kept
PLAIN = 1.5  # times slower: what ends a trial early
KEEP = 64  # passes between trials while alone
CALM = 512  # passes between trials while nothing is wrong
DRIFT = 1.002  # the best time is forgotten this fast: contexts grow, machines change
SMALL_ROWS = 8

_Kind = tuple[int, int]


@dataclass
class Pace:
    """Choice between all threads and one. Read `alone` before each pass; call `note` after it."""

    alone: bool = False
    _left: int = 32  # passes until the next decision or trial
    _signs: int = 0
    _needed: int = SIGNS
    _best_s: dict[_Kind, float] = field(default_factory=dict)  # with the team
    _trial: dict[_Kind, tuple[list[float], list[float]]] | None = None  # seconds: team's, alone
    _before: bool = False  # how passes ran before the trial

    @property
    def kept(self) -> bool:
        """Return whether passes run on one thread, trials aside."""
        return self.alone if self._trial is None else self._before

    @property
    def is_trying(self) -> bool:
        """Return whether a trial is running."""
        return self._trial is not None

    def rested(self) -> None:
        """Note that no pass ran for a while: where one thread was faster, a trial is due."""
        if self.alone and self._trial is None:
            self._begin_trial()

    def is_alone_for(self, rows: int) -> bool:
        """Return whether the next pass, of so many rows, runs on one thread.

        Trials are made of small passes only: while one is running, or due after a rest, large passes have all threads.
        """
        return self.alone and (rows <= SMALL_ROWS or self._trial is None)

    def note(self, kind: _Kind, seconds: float, passes: int = 1) -> None:
        """Learn how long a pass of ``kind`` (program, rows) took: the mean of ``passes``.

        Large passes are not compared. Where only they come, all threads work again after as many rows as `KEEP`
        passes of `SMALL_ROWS` have.
        """
        if kind[1] > SMALL_ROWS:
            if self.alone and self._trial is None:
                self._left -= passes * (kind[1] // SMALL_ROWS)
                if self._left <= 0:
                    self.alone, self._left = False, CALM
            return
        self._left -= passes
        if self._trial is not None:
            self._trial.setdefault(kind, ([], []))[self.alone].append(seconds)
            self.alone = not self.alone
            if self._left <= 0 or self._is_plain(self._trial):
                self._judge(self._trial)
            return
        if not self.alone:
            best_s = min(self._best_s.get(kind, seconds) * DRIFT, seconds)
            self._best_s[kind] = best_s
            slow = (seconds > TROUBLE * best_s) + (seconds > DISTRESS * best_s)
            self._signs = self._signs + slow * passes if slow else max(0, self._signs - passes)
        if self._left <= 0 or self._signs >= self._needed:
            self._begin_trial()

    def _begin_trial(self) -> None:
        self._trial, self._left, self._signs = {}, 2 * TRIAL, 0
        self._before, self.alone = self.alone, not self.alone

    def _is_plain(self, trial: dict[_Kind, tuple[list[float], list[float]]]) -> bool:
        """Return whether a few passes already show that one thread is much faster."""
        return any(
            len(team) > 1 and len(alone) > 1 and PLAIN * max(alone) < min(team) for team, alone in trial.values()
        )

    def _judge(self, trial: dict[_Kind, tuple[list[float], list[float]]]) -> None:
        """End a trial: keep the faster way."""
        both = [times for times in trial.values() if times[0] and times[1]]
        team_s = sum(_median(team) * len(alone) for team, alone in both)
        alone_s = sum(_median(alone) * len(alone) for _, alone in both)
        self.alone = alone_s < BETTER * team_s if both else self._before
        self._needed = SIGNS if self.alone else min(2 * self._needed, MOST_SIGNS)
        self._left = KEEP if self.alone else CALM
        self._trial, self._signs = None, 0


def _median(values: Sequence[float]) -> float:
    """Return the middle value of an odd number of them, or the upper of two middle ones."""
    return sorted(values)[len(values) // 2]


def keep_apart(threads: Iterable[int]) -> frozenset[int]:
    """Bar the caller's core to threads, given by their system ids. Returns the cores that the caller may run on.

    The result is empty where nothing was changed. Each thread is to call `spread` when it has woken.
    """
    if sys.platform != "linux":
        return frozenset()
    try:
        allowed = frozenset(os.sched_getaffinity(0))
        others = without(_current_core(), allowed)
        if not others:
            return frozenset()
        for thread in threads:
            os.sched_setaffinity(thread, others)
        return allowed
    except (OSError, AttributeError):  # forbidden, or a library without the call
        return frozenset()


def spread(cores: Collection[int]) -> None:
    """Let the calling thread run on ``cores`` again; none: leave it as it is."""
    if cores and sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cores)


def without(core: int, allowed: frozenset[int]) -> frozenset[int]:
    """Return the allowed cores but this one; none if it is the only one, or not among them."""
    return allowed - {core} if core in allowed else frozenset()


def _current_core() -> int:
    """Return the core that the caller runs on, or -1. Raises `AttributeError` where the C library cannot say."""
    return int(_library().sched_getcpu())


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
