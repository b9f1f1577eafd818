"""Processor and memory of this process, and its limits.

Owns readings of ``/proc`` and control groups; None where the platform has no such thing. Knows nothing of models.
Invariant: reading has no effect and never raises.
"""

from __future__ import annotations

import re
import threading
from functools import cache
from pathlib import Path

from miaotui.kernels.platform.cpu import probe

MEMORY_WARNING = 0.9
_TASKS = Path("/proc/self/task")
_COMPUTES = re.compile(r"miaotui-(engine|[0-9]+)")


def resident_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """Return the memory that only this process holds; mapped files, which can be dropped, do not count."""
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    sizes = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    found = [int(sizes[name][0]) for name in ("RssAnon", "RssShmem") if sizes.get(name)]
    return sum(found) * 1024 if found else None


@cache
def memory_limit_bytes() -> int | None:
    """Return the least of physical memory and the control groups' limits."""
    return probe().memory_bytes


def memory_warning(resident: int | None, limit: int | None) -> str | None:
    """Return what to log when the limit is near; None while it is not."""
    if resident is None or not limit or resident < MEMORY_WARNING * limit:
        return None
    share = 100 * resident / limit
    return (
        f"memory: {resident / 1e9:.1f} GB held, {share:.0f}% of the {limit / 1e9:.1f} GB allowed. "
        "Beyond it the system ends this process: serve fewer models, --kv int8, or a smaller "
        "--context"
    )


def team_seconds() -> float | None:
    """Return the processor time of the engines' threads since their start."""
    ids = [t.native_id for t in threading.enumerate() if _COMPUTES.fullmatch(t.name)]
    total, found = 0, False
    for number in ids:
        try:
            text = (_TASKS / str(number) / "schedstat").read_text(encoding="ascii")
            total += int(text.split()[0])
        except (OSError, ValueError, IndexError):
            continue
        found = True
    return total / 1e9 if found else None
