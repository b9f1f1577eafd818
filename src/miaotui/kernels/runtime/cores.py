"""The cores on which sleeping threads wake.

Owns the choice of cores before a thread is woken, and the way back. Linux may wake a thread on the core of the one that
wakes it, which goes on computing; it then waits there for milliseconds while another core idles. Invariant: a thread
that has woken may run on every core that the thread which woke it may run on. Systems that cannot say so change
nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Collection, Iterable
from functools import lru_cache

MOST_THREADS = 16  # that are placed: more find free cores, and each costs a system call


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
