"""Promises of jobs: a job is taken on at once, or refused with the time that it would take.

Owns the bounds of the queue and the check that every promise in it can be kept, job by job in the order of their due
times (earliest deadline first keeps all of them if any order does). Knows no threads: times come in. Invariant: a
promise is given only if all promises, this one included, are foreseen to be kept, with the margin of `allowed_s`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from miaotui.engine.jobs.job import PromisedJob, asked_of
from miaotui.errors import DeadlineUnattainableError, OverloadedError
from miaotui.schedule.promises.admission import AdmissionCounts
from miaotui.schedule.promises.promise import HAND_OVER_S

Job = TypeVar("Job", bound=PromisedJob)

MOST_WAIT_S = 60.0  # that a refusal asks for


@dataclass(frozen=True)
class QueueLimits:
    """The longest queue of one model."""

    jobs: int = 256
    tokens: int = 1 << 20  # of texts that were not computed yet


@dataclass(frozen=True)
class Load:
    """Work that stands before a new job, in seconds: the pass under way, and promised work of other models."""

    ahead_s: float = 0.0
    spare_s: float = math.inf  # for which the cores may be taken without breaking another model's promise


class JobQueue(Protocol[Job]):
    """Jobs that have not ended."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __iter__(self) -> Iterator[Job]:
        """Yield them."""

    @property
    def tokens(self) -> int:
        """Return tokens that were not computed yet."""

    def add(self, job: Job) -> None:
        """Add a job behind those that were there."""

    def drop(self, jobs: Iterable[Job]) -> None:
        """Forget jobs that have ended."""


class JobAdmission(Generic[Job]):
    """The promises of one `JobQueue`. Used under the queue's lock.

    ``work_s`` predicts the seconds of what is left of a job; ``allowed_s`` is what a promise allows for such seconds.
    """

    def __init__(
        self,
        queue: JobQueue[Job],
        work_s: Callable[[Job], float],
        allowed_s: Callable[[float], float],
        limits: QueueLimits,
    ) -> None:
        self.queue, self.limits = queue, limits
        self._work_s, self._allowed_s = work_s, allowed_s
        self.counts = AdmissionCounts()

    def admit(self, job: Job, load: Load, now_s: float) -> None:
        """Add a job to the queue, with its promise if it has a deadline.

        Raises `OverloadedError` when the queue is full, and `DeadlineUnattainableError` when the job could not be done
        in its time, or a promise that was given would break; a deadline with ``on_late="best_effort"`` is then dropped.
        """
        self._require_room(job)
        asked_ms = None if job.deadline is None else asked_of(job.deadline)
        promised = sorted((each for each in self.queue if each.promised), key=lambda each: each.due_s)
        if asked_ms is None or job.deadline is None:
            job.predicted_ms = self._ms([*self.queue, job], load, job, now_s)
        else:
            job.due_s = job.arrived_s + asked_ms / 1e3 - HAND_OVER_S
            job.predicted_ms = self._ms([*(j for j in promised if j.due_s <= job.due_s), job], load, job, now_s)
            late_s = now_s - job.due_s
            if late_s < 0:
                late_s = self._late_s(sorted([*promised, job], key=lambda each: each.due_s), load, now_s)
            late_s = max(late_s, self._work_s(job) - load.spare_s)
            if late_s > 0 or job.due_s <= now_s:  # no time at all is too little, too
                self._refuse(job, [*promised, job], load, late_s, now_s)
        self.queue.add(job)

    def spare_s(self, now_s: float) -> float:
        """Return how long the cores may be taken by others without breaking a promise; infinite without promises."""
        promised = sorted((each for each in self.queue if each.promised), key=lambda each: each.due_s)
        return -self._late_s(promised, Load(), now_s) if promised else math.inf

    @property
    def promised_s(self) -> float:
        """Return the predicted seconds of all promised work that was not computed yet."""
        return sum(map(self._work_s, (job for job in self.queue if job.promised)))

    def settle(self, job: Job) -> None:
        """Count how a job that had a deadline ended."""
        if job.deadline is None or job.finish_reason == "cancelled":
            return
        met = job.finish_reason == "stop" and bool(job.promise.met)
        self.counts.met += met
        self.counts.missed += not met

    def _refuse(self, job: Job, promised: list[Job], load: Load, late_s: float, now_s: float) -> None:
        """Raise the refusal, or take the promise away where the caller prefers a late result."""
        assert job.deadline is not None
        asked_ms = asked_of(job.deadline)
        if job.deadline.on_late == "best_effort":
            job.due_s = math.inf
            job.predicted_ms = self._ms([*self.queue, job], load, job, now_s)
            return
        predicted_ms = max(job.predicted_ms, self._ms(promised, load, job, now_s))
        if asked_ms is not None:  # where others would be harmed: by waiting so long
            predicted_ms = max(predicted_ms, asked_ms + late_s * 1e3)
        self.counts.refused += 1
        raise DeadlineUnattainableError(
            f"this request would take {predicted_ms:.0f} ms beside what is promised already, and it allows "
            f"{asked_ms:.0f} ms: allow more, send fewer or shorter texts, or try again later",
            retry_after_s=max(0.05, late_s),
            predicted_ms=predicted_ms,
        )

    def _late_s(self, jobs: list[Job], load: Load, now_s: float) -> float:
        """Return by how many seconds the worst promise of ``jobs``, in their order, is foreseen to be broken."""
        done_s, late_s = load.ahead_s, -math.inf
        for job in jobs:
            done_s += self._work_s(job)
            if job.due_s > now_s:  # else it is lost already, and limits nothing any more
                late_s = max(late_s, now_s + self._allowed_s(done_s) - job.due_s)
        return late_s

    def _ms(self, jobs: Iterable[Job], load: Load, job: Job, now_s: float) -> float:
        """Return when the last of ``jobs`` is done, in milliseconds from the arrival of ``job``."""
        seconds = load.ahead_s + sum(map(self._work_s, jobs))
        return (now_s + self._allowed_s(seconds) + HAND_OVER_S - job.arrived_s) * 1e3

    def _require_room(self, job: Job) -> None:
        waiting, tokens = len(self.queue), self.queue.tokens
        if waiting < self.limits.jobs and (not waiting or tokens + job.n_tokens <= self.limits.tokens):
            return
        self.counts.overloaded += 1
        wait_s = sum(map(self._work_s, self.queue))
        raise OverloadedError(
            f"{waiting:,} requests with {tokens:,} tokens are in line, of at most {self.limits.jobs:,} requests and "
            f"{self.limits.tokens:,} tokens: try again in a moment",
            min(max(0.1, wait_s), MOST_WAIT_S),
        )
