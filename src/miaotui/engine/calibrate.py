"""Measurement of the times of passes on this machine, in well under a second, before the first request.

Owns the choice of passes. Knows nothing of requests: the passes run over pages that no sequence
uses. Invariant: nothing is left behind but numbers. What it finds is a first guess that every real
step corrects (`schedule.promises.cost`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from miaotui.backends.backend import Backend, probe_chunk
from miaotui.engine.sampling.sampler import SequenceSampler
from miaotui.schedule.plan import Chunk, Plan
from miaotui.schedule.promises.cost import CostRates
from miaotui.types import SamplingParams

PATIENCE_S = 0.6  # no pass is begun after so long
DECODES = (1, 2, 4, 8, 16)
CHUNKS = (32, 64, 128, 256)
FAR = 1024  # tokens: the context at which looking back is measured
STEP_S = 200e-6  # of Python around a pass, until real steps say


def calibrate(backend: Backend, clock: Callable[[], float] = time.perf_counter) -> CostRates:
    """Time a handful of passes: answers of several, prompts of several sizes, long contexts."""
    return _CostProbe(backend, clock).run()


class _CostProbe:
    def __init__(self, backend: Backend, clock: Callable[[], float]) -> None:
        self._backend, self._limits, self._clock = backend, backend.limits, clock
        self._most_rows = min(self._limits.rows, self._limits.context)
        self._most_logits = self._limits.logits_rows
        self._vocab = self._limits.vocab_size
        self._end_s = clock() + PATIENCE_S

    def run(self) -> CostRates:
        self._time(self._answers(1, 0))  # the first pass touches memory that none has yet
        count = min(8, self._most_logits, self._most_rows)
        together = self._time(self._answers(count, 0))
        prompt = self._time(self._prompt(count))
        far = min(FAR, self._limits.context) - 1
        looking = max(0.0, self._time(self._answers(count, far)) - together)
        attend_s = looking / (count * far) if far > 0 else 0.0
        choose_s = self._choosing()
        logits_s = max(0.0, together - prompt) / (count - 1) if count > 1 else 0.0
        curve = []
        for rows in DECODES:
            if rows <= min(self._most_rows, self._most_logits):
                took = together if rows == count else self._time(self._answers(rows, 0))
                curve.append((rows, max(took - rows * logits_s, took / 2) + STEP_S))
        for rows in CHUNKS:
            if rows > self._most_rows or self._clock() > self._end_s:
                break
            seen = rows * (rows + 1) / 2
            took = self._time(self._prompt(rows), repeat=1 if rows > 64 else 2)
            curve.append((rows, max(took - logits_s - attend_s * seen / 8, took / 2) + STEP_S))
        if len(curve) == 1:  # room for a single row: the curve needs two ends
            curve.append((curve[0][0] + 1, 2 * curve[0][1]))
        return CostRates(curve, logits_s + choose_s, attend_s)

    def _time(self, chunks: list[Chunk], repeat: int = 3) -> float:
        """The best of a few passes: what disturbs one is learned from real steps."""
        best = float("inf")
        for _ in range(repeat):
            start = self._clock()
            self._backend.run(Plan(tuple(chunks)))
            best = min(best, self._clock() - start)
            if self._clock() > self._end_s:
                break
        return best

    def _answers(self, count: int, position: int) -> list[Chunk]:
        return [probe_chunk(self._limits, (i % self._vocab,), position) for i in range(count)]

    def _prompt(self, rows: int) -> list[Chunk]:
        return [probe_chunk(self._limits, [i % self._vocab for i in range(rows)])]

    def _choosing(self) -> float:
        """Seconds in which one token is chosen."""
        row = np.linspace(-1, 1, self._vocab, dtype=np.float32)
        sampler = SequenceSampler(SamplingParams(), (), (), self._vocab, self._backend.sampling)
        start = self._clock()
        for _ in range(4):
            sampler.pick(row, 0)
        return (self._clock() - start) / 4
