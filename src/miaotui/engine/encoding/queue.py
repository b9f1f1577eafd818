"""The order of texts: which of them the next pass computes.

Owns the jobs that wait and the choice of a pass: promised jobs by their due times, the others by start-time fair
queueing over rows (Goyal, Vin and Cheng, "Start-time fair queueing", 1996), so that a short query is computed soon
however many texts a long job has left. Knows no threads and no clock: times come in. Invariants: a text is computed
whole, in one pass; texts of one job are taken in their order; filling a pass up breaks no promise that stood.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

from miaotui.backends.encoder_backend import EncoderLimits
from miaotui.engine.encoding.job import EncodeJob
from miaotui.schedule.promises.cost import CostModel

PASS_S = 0.02  # a pass is about so long at most: what comes meanwhile waits for it
LEAST_ROWS = 128  # that a pass may have however slow the model is: weights are read for each pass


class Pick(NamedTuple):
    """One text of a pass."""

    job: EncodeJob
    place: int  # among the job's texts


class EncodeQueue:
    """Jobs with texts that were not computed yet. Used under one lock."""

    def __init__(self, limits: EncoderLimits, cost: CostModel) -> None:
        self._limits, self._cost = limits, cost
        self._jobs: dict[int, EncodeJob] = {}
        self._virtual = 0.0  # rows: the tag of the text that was taken last

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[EncodeJob]:
        return iter(self._jobs.values())

    @property
    def tokens(self) -> int:
        """Return tokens that were not computed yet."""
        return sum(job.rows_left for job in self._jobs.values())

    def add(self, job: EncodeJob) -> None:
        """Add a job behind those that were there."""
        job.tag = self._virtual
        self._jobs[job.number] = job

    def drop(self, jobs: Iterable[EncodeJob]) -> None:
        """Forget jobs that have ended."""
        for job in jobs:
            self._jobs.pop(job.number, None)

    def sweep(self) -> list[EncodeJob]:
        """Forget and return the jobs that were cancelled."""
        gone = [job for job in self._jobs.values() if job.is_over]
        self.drop(gone)
        return gone

    def next_pass(self, now_s: float) -> list[Pick]:
        """Take the texts of the next pass; empty if none waits."""
        heap = [_key(job) for job in self._jobs.values() if job.taken < len(job.texts)]
        heapify(heap)
        picks: list[Pick] = []
        rows, squares, due_s = 0, 0, math.inf
        while heap:
            job = self._jobs[heap[0][2]]
            n = len(job.texts[job.taken].tokens)
            if picks and not self._fits(rows + n, squares + n * n, due_s - now_s):
                break
            rows, squares, due_s = rows + n, squares + n * n, min(due_s, job.due_s)
            self._virtual = max(self._virtual, job.tag)
            job.tag += n
            picks.append(Pick(job, job.take()))
            if job.taken < len(job.texts):
                heapreplace(heap, _key(job))
            else:
                heappop(heap)
        return picks

    def _fits(self, rows: int, squares: int, spare_s: float) -> bool:
        """Return whether a pass of so many rows is short enough, and done in ``spare_s``."""
        if rows > self._limits.rows:
            return False
        predicted_s = self._cost.seconds(rows, 0, squares)
        if predicted_s > PASS_S and rows > LEAST_ROWS:
            return False
        return spare_s == math.inf or self._cost.allowed_s(predicted_s) <= spare_s


def _key(job: EncodeJob) -> tuple[float, float, int]:
    return job.due_s, job.tag, job.number


def work_s(cost: CostModel, limits: EncoderLimits, rows: int, squares: int) -> float:
    """Predict the seconds of texts of so many rows in all, computed in passes of the usual length."""
    if not rows:
        return 0.0
    seen = squares / rows  # tokens that a row looks at, in the mean
    most = min(rows, limits.rows)
    while most > LEAST_ROWS and cost.seconds(most, 0, seen * most) > PASS_S:
        most = max(most // 2, LEAST_ROWS)
    full, rest = divmod(rows, most)
    seconds = full * cost.seconds(most, 0, seen * most)
    return seconds + (cost.seconds(rest, 0, seen * rest) if rest else 0.0)


def job_work_s(cost: CostModel, limits: EncoderLimits, job: EncodeJob) -> float:
    """Predict the seconds of what is left of a job, its reductions included."""
    return work_s(cost, limits, job.rows_left, job.squares_left) + job.rows_left * job.reduce_row_s
