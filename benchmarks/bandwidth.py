"""How fast this machine reads memory: the limit of every decode step.

Owns one compiled kernel that sums a large array with several threads. Knows nothing of models. The
best of several passes counts, since a limit is what the machine can do; the array is larger than
any cache and lies in huge pages where the system grants them, as model weights do.
"""

from __future__ import annotations

import mmap
import threading
import time
from typing import Any

import numpy as np
from numba import njit

ARRAY_BYTES = 512 << 20


def read_bandwidth(threads: int, passes: int = 9) -> float:
    """Bytes per second that ``threads`` threads read together, best of ``passes``."""
    memory = mmap.mmap(-1, ARRAY_BYTES)
    memory.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(memory, np.uint64)
    array[:] = 1
    parts = np.array_split(array, threads)
    _sum(array[:64])  # compiles
    best = 0.0
    for _ in range(passes):
        team = [threading.Thread(target=_sum, args=(part,)) for part in parts]
        start = time.perf_counter()
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        best = max(best, ARRAY_BYTES / (time.perf_counter() - start))
    return best


@njit(nogil=True)
def _sum(words: Any) -> Any:
    """Read eight streams at once: one alone leaves the prefetchers idle at the end of each page."""
    n = words.size // 8
    a = b = c = d = e = f = g = h = np.uint64(0)
    for i in range(n):
        a += words[i]
        b += words[n + i]
        c += words[2 * n + i]
        d += words[3 * n + i]
        e += words[4 * n + i]
        f += words[5 * n + i]
        g += words[6 * n + i]
        h += words[7 * n + i]
    return a + b + c + d + e + f + g + h
