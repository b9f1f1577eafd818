"""Read bandwidth of the machine, measured once and stored beside the compiled kernels.

A busy machine measures too low a figure, never too high a one. So the highest figure is kept. A caller that observes
a higher rate asks for a new measurement.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from miaotui.kernels.platform.measure import read_bandwidth
from miaotui.kernels.runtime.compiled import cache_folder


def remembered_bandwidth(threads: int, at_least: float = 0.0) -> float:
    """Return the read bandwidth of ``threads`` threads in GB/s (10**9 bytes).

    Measures if no figure is stored, or if ``at_least`` GB/s were observed and exceed it.
    """
    path = cache_folder() / f"bandwidth-{threads}.json"
    known = _recall(path)
    if known > at_least:
        return known
    best = max(known, at_least, read_bandwidth(threads))
    _remember(path, best)
    return best


def _recall(path: Path) -> float:
    try:
        return float(json.loads(path.read_text())["gigabytes_per_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _remember(path: Path, gigabytes_per_s: float) -> None:
    with contextlib.suppress(OSError):  # it will be measured again
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps({"gigabytes_per_s": gigabytes_per_s}))
        os.replace(part, path)
