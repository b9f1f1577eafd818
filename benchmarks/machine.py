"""The machine under the benchmark: what it is, and how busy it is with other things.

Owns the description, the count of processor time taken by strangers, and the busy neighbour. Knows
no engine. Linux only: everything comes from /proc. Invariant: a number measured while strangers
used the processor is known to be so.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
QUIET_CORES = 0.05  # strangers may use this much of one core


@dataclass(frozen=True)
class Machine:
    """What the numbers were measured on."""

    processor: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    load_average: tuple[float, float, float]

    def as_dict(self) -> dict[str, Any]:
        """For the JSON line."""
        return asdict(self)


def describe() -> Machine:
    """Look at this machine."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return Machine(
        processor=names[0].split(":", 1)[1].strip() if names else platform.processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=platform.platform(),
        python=platform.python_version(),
        load_average=os.getloadavg(),
    )


class Strangers:
    """Cores used, since it was made, by anything but this process and the processes ``ours``."""

    def __init__(self, ours: Sequence[int]) -> None:
        self._ours = (os.getpid(), *ours)
        self._start = self._read()

    def cores(self) -> float:
        """The mean number of cores; steal (the host running others) counts."""
        begin, now = self._start, self._read()
        return max(0.0, (now[1] - begin[1]) - (now[2] - begin[2])) / max(now[0] - begin[0], 1e-9)

    def _read(self) -> tuple[float, float, float]:
        """(clock, seconds of all busy cores, seconds of ours)."""
        busy = _busy_s()
        return time.perf_counter(), busy, sum(_process_s(pid) for pid in self._ours)


def _busy_s() -> float:
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS_PER_S  # all but idle and waiting for a device


def _process_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def wait_until_quiet(patience_s: float) -> bool:
    """Wait for half a second without strangers; return False when ``patience_s`` pass first."""
    end = time.monotonic() + patience_s
    while True:
        strangers = Strangers(())
        time.sleep(0.5)
        if strangers.cores() <= QUIET_CORES:
            return True
        if time.monotonic() >= end:
            return False


@contextmanager
def busy_neighbour() -> Iterator[int]:
    """Keep one core busy with another process; yields its id."""
    core = max(os.sched_getaffinity(0))
    code = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            time.sleep(0.2)
            yield process.pid
        finally:
            process.kill()
