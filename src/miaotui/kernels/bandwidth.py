"""The machine's read bandwidth, measured once and remembered beside the compiled kernels."""

from __future__ import annotations

import json
import os

from miaotui.kernels.compiled import cache_folder
from miaotui.kernels.measure import read_bandwidth


def remembered_bandwidth(threads: int) -> float:
    """GB/s (10**9 bytes) that ``threads`` threads can read; measured if no measurement is remembered."""
    path = cache_folder() / f"bandwidth-{threads}.json"
    try:
        return float(json.loads(path.read_text())["gigabytes_per_s"])
    except (OSError, ValueError, KeyError, TypeError):
        measured = read_bandwidth(threads)
    try:
        path.with_suffix(".part").write_text(json.dumps({"gigabytes_per_s": measured}))
        os.replace(path.with_suffix(".part"), path)
    except OSError:
        pass  # it will be measured again
    return measured
