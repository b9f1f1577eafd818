"""The loop of one encoder-decoder: the searches of all jobs share its passes.

Owns the passes and which jobs' searches are in them. Knows no texts; the thread, the promises and the ends of jobs are
`JobLoop`'s. While a promise leaves no time for others' rows, only promised jobs run. Invariants: only the loop's thread
calls the backend between `Seq2SeqLoop` and `close`; a job that ends leaves no search behind.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

from miaotui.backends.seq2seq_backend import Seq2SeqBackend, Source
from miaotui.engine.jobs.admission import JobAdmission, QueueLimits
from miaotui.engine.jobs.loop import JobLoop
from miaotui.engine.search.search import FoundTarget, SearchSettings, settled_tokens
from miaotui.engine.seq2seq.cost import TargetCost, calibrate_targets, shape_of
from miaotui.engine.seq2seq.job import TargetJob, TargetJobs
from miaotui.engine.seq2seq.loaded import LoadedSeq2Seq
from miaotui.engine.seq2seq.searches import SearchQueue, TargetRequest, TargetStep
from miaotui.engine.turns import CoreTurns
from miaotui.model.seq2seq.config import Seq2SeqConfig
from miaotui.model.seq2seq.generation import GenerationSettings
from miaotui.types import Deadline

Wanted = tuple[Sequence[int], GenerationSettings]  # a source and how its target is searched for


class LoadedTargets(Protocol):
    """A model in memory, as far as its loop uses it."""

    @property
    def backend(self) -> Seq2SeqBackend:
        """Return its arithmetic."""

    @property
    def config(self) -> Seq2SeqConfig:
        """Return its configuration."""


Loaded = TypeVar("Loaded", bound=LoadedTargets)


class TargetLoop(JobLoop[TargetJob], Generic[Loaded]):
    """One model of targets that runs. `submit` may be called from any thread and returns at once."""

    def __init__(
        self,
        model: Loaded,
        limits: QueueLimits | None = None,
        turns: CoreTurns | None = None,
        cost: TargetCost | None = None,
    ) -> None:
        """Start the thread. Without ``cost``, passes measure it here (at most about half a second)."""
        super().__init__(turns)
        self.model = model
        self._searches = SearchQueue(model.backend, model.config.vocab_size, model.config.source_vocab_size)
        self._cost = cost or calibrate_targets(model.backend, self._turns, mel_bins=model.config.mel_bins)
        self.cost = self._cost.targets
        self._jobs = TargetJobs()
        self._owners: dict[int, tuple[TargetJob, int]] = {}  # of searches, by their numbers
        work_s = partial(self._cost.work_s, most_rows=model.backend.limits.target_rows)
        self.admission = JobAdmission(self._jobs, work_s, self.cost.allowed_s, limits or QueueLimits())
        self._start()

    def submit(
        self,
        wanted: Sequence[tuple[Source, SearchSettings]],
        deadline: Deadline | None = None,
        arrived_s: float | None = None,
    ) -> TargetJob:
        """Take a job on; its future gives a `FoundTarget` for each source, in order.

        Raises `RequestError` for what cannot be computed, `DeadlineUnattainableError` when the job could not be done in
        its time, and `OverloadedError`.
        """
        now_s = time.perf_counter()
        requests = [self._searches.request(source, settings) for source, settings in wanted]
        return self._submit(TargetJob(requests, deadline, now_s if arrived_s is None else arrived_s), now_s)

    def run(
        self,
        wanted: Sequence[tuple[Source, SearchSettings]],
        deadline: Deadline | None = None,
        arrived_s: float | None = None,
    ) -> list[FoundTarget]:
        """Submit a job and wait for its results. Raises as `submit` does, and what the job failed with."""
        job = self.submit(wanted, deadline, arrived_s)
        try:
            return job.future.result()
        finally:
            job.cancel()

    @property
    def waiting_tokens(self) -> int:
        """Return tokens of sources that no pass has begun to encode."""
        with self._lock:
            return self._jobs.tokens

    def _give_back(self) -> None:
        self.model.backend.close()

    # the loop's thread -----------------------------------------------------------------------------

    def _step(self) -> None:
        """Run one pass over sources that begin and one over target rows."""
        start_s = time.perf_counter()
        with self._lock:
            jobs = list(self._jobs)
        self._take_in(jobs)
        with self._lock:
            alone = self._must_hurry(jobs, start_s)
        step = TargetStep()
        try:
            self._searches.step(step, promised_only=alone)
            self._observe(step, start_s)
            self._keep(step)
        except Exception as error:  # the backend failed; the loop goes on
            self._fail(self._jobs_of(step.requests) or jobs, error)
        for job in jobs:
            if job.is_over:
                self._leave(job)
        self._finish(jobs)

    def _take_in(self, jobs: Sequence[TargetJob]) -> None:
        """Take on the searches of new jobs, and cancel those of jobs that are over."""
        for job in jobs:
            if job.is_over:
                self._leave(job)
            elif not job.is_queued:
                job.is_queued = True
                for place, request in enumerate(job.requests):
                    request.due_s = job.due_s
                    self._searches.add(request)
                    self._owners[request.number] = job, place

    def _leave(self, job: TargetJob) -> None:
        for request in list(job.open):
            self._searches.cancel(request)
        for request in job.requests:
            self._owners.pop(request.number, None)

    def _jobs_of(self, requests: Sequence[TargetRequest]) -> list[TargetJob]:
        owners = [self._owners[each.number][0] for each in requests if each.number in self._owners]
        return list({job.number: job for job in owners}.values())

    def _must_hurry(self, jobs: Sequence[TargetJob], now_s: float) -> bool:
        """Return whether a full step would break a promise; foresees the step's end, too."""
        limits, rows = self.model.backend.limits, sum(self._searches.wanted_rows)
        step_s = self._cost.step_s(0, min(rows, limits.target_rows) or 1)
        self._pass_end_s = now_s + step_s
        if not any(job.promised for job in jobs) or all(job.promised for job in jobs):
            return False
        full_s = self._cost.step_s(min(self._searches.waiting_tokens, limits.source_rows), limits.target_rows)
        return self.admission.spare_s(now_s) < self.cost.allowed_s(2 * full_s)

    def _observe(self, step: TargetStep, start_s: float) -> None:
        """Learn what the step took, and note when its jobs began."""
        took_s = time.perf_counter() - start_s
        if step.source_rows:
            self._cost.sources.observe(shape_of(step.source_rows), step.encode_s, step.encode_s)
        if step.target_rows:
            self._cost.targets.observe(shape_of(step.target_rows), max(took_s - step.encode_s, 1e-6), step.run_s)
        for request in step.ended:
            self._cost.lengths.learn(request)
        with self._lock:
            self.counts.update(passes=1, tokens=step.source_rows + step.target_rows, texts=len(step.ended))

    def _keep(self, step: TargetStep) -> None:
        """Keep the results of searches that have ended, and note which jobs have begun."""
        now_s = time.perf_counter()
        for job in self._jobs_of(step.requests):
            job.began_s = now_s if job.began_s is None else job.began_s
        for request in step.requests:
            owner = self._owners.get(request.number)
            if owner is not None and owner[0].listener is not None and not request.is_over:
                owner[0].listener(owner[1], settled_tokens(request.search))
        for request in step.ended:
            job, place = self._owners.pop(request.number)
            if request.result is not None and not job.is_over:
                job.put(place, request.result)


class Seq2SeqLoop(TargetLoop[LoadedSeq2Seq]):
    """One encoder-decoder of texts that runs."""

    noun = "encoder-decoder"
