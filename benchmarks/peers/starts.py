"""Starts of a fresh process, from its launch to its first new token.

Owns the first start (nothing cached: ours compiles its kernels and packs the weights; the peers
have no such caches here) and the second (with what the first left behind). Knows nothing of
requirements. Engines take turns, as elsewhere; model files are in the page cache.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import Strangers, wait_until_quiet
from benchmarks.peers.engines import Engine
from benchmarks.peers.measure import Plan, Results, Sample, Series
from benchmarks.peers.session import Session
from benchmarks.peers.workloads import TTFT

CACHE_VARIABLE = "MIAOTUI_HOME"
FIRST = "first start"
SECOND = "second start"


def starts(engines: Sequence[Engine], gguf: Path, plan: Plan, folder: Path) -> Results:
    """Measure both starts of all ``engines``, each pair in a new empty cache folder."""
    source = random.Random(plan.seed + 2)
    results: Results = {}
    for _ in range(plan.repetitions):
        for engine in engines:
            with tempfile.TemporaryDirectory(dir=folder) as cache:
                for name in (FIRST, SECOND):
                    wait_until_quiet(plan.patience_s)
                    prompts = TTFT.prompts(source, plan.n_vocab)
                    environment = {CACHE_VARIABLE: cache}
                    with Session(engine, gguf, folder / "start.log", environment) as session:
                        strangers = Strangers([session.pid])
                        session.wait_ready()
                        session.generate(prompts, 1)
                        sample = Sample(session.age_s(), strangers.cores())
                    results.setdefault((engine.label, name), Series("s")).add(sample)
    return results
