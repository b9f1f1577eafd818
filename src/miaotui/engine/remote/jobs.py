"""Loops of models that do jobs and whose engines run in other processes: encoders, and speech models.

Owns the jobs of this process and their results. Knows no process and no network; a `JobDispatcher` does. Invariants:
every job ends exactly once; what a result is made of crosses as plain values, and the result is made here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol

from miaotui.backends.encoder_backend import TextRows
from miaotui.engine.encoding.job import EncodeJob, Reduction
from miaotui.engine.encoding.loop import EncodingLoop
from miaotui.engine.jobs.admission import Job, JobAdmission, QueueLimits
from miaotui.engine.jobs.job import PromisedJob
from miaotui.engine.jobs.loop import JobLoop
from miaotui.engine.turns import CoreTurns
from miaotui.errors import DeadlineUnattainableError, RequestError
from miaotui.schedule.promises.cost import CostModel, CostRates
from miaotui.types import Deadline

UNKNOWN_S = 1e-3  # of a pass whose cost nothing was published about

Content = dict[str, Any]  # JSON values
Take = Callable[[int, Any], None]  # keeps the result that a value of one index makes


class JobDispatcher(Protocol):
    """Sender of jobs to engines elsewhere; any thread may call it, and nothing here waits."""

    @property
    def may_sleep(self) -> bool:
        """Return whether there may be no engine until a job comes."""

    def dispatch(self, job: PromisedJob, content: Content, take: Take) -> None:
        """Send a job on its way; its values go to ``take``, and then it ends, in a thread of the dispatcher.

        Raises `RefusedError` at once where no engine can keep its deadline.
        """

    def ahead_s(self) -> float:
        """Return the seconds of work that stand before a new job at the engine that has least."""

    def close(self) -> None:
        """End everything and wait until it has ended."""


class _OpenJobs(Generic[Job]):
    """Jobs that have not ended: a `JobQueue` whose passes run elsewhere."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._jobs.values()))

    @property
    def tokens(self) -> int:
        """Return the tokens of all jobs."""
        return sum(job.n_tokens for job in self._jobs.values())

    def add(self, job: Job) -> None:
        """Add a job behind those that were there."""
        self._jobs[job.number] = job

    def drop(self, jobs: Iterable[Job]) -> None:
        """Forget jobs that have ended."""
        for job in jobs:
            self._jobs.pop(job.number, None)


class RemoteJobLoop(JobLoop[Job]):
    """One model that does jobs elsewhere. A subclass makes the jobs and calls `_send`."""

    def __init__(self, dispatcher: JobDispatcher, limits: QueueLimits | None = None) -> None:
        super().__init__(CoreTurns())  # nothing is computed here
        self._dispatcher = dispatcher
        self.cost = CostModel(CostRates(((1, UNKNOWN_S), (2, UNKNOWN_S)), 0.0, 0.0))
        self.admission = JobAdmission(_OpenJobs[Job](), lambda _: 0.0, lambda seconds: seconds, limits or QueueLimits())

    @property
    def may_sleep(self) -> bool:
        """Return whether there may be no engine until a job comes."""
        return self._dispatcher.may_sleep

    def close(self) -> None:
        """End what runs, and the ways to the engines. Closing twice does nothing."""
        self._stop.set()
        for job in self.admission.queue:
            job.end(time.perf_counter(), self._stopping())
        self._dispatcher.close()

    def ahead_s(self) -> float:
        """Return the seconds of work that stand before a new job at the engine that has least."""
        return self._dispatcher.ahead_s()

    def _send(self, job: Job, content: Content, take: Take) -> Job:
        """Send a job on its way. Raises `DeadlineUnattainableError` and `OverloadedError`."""
        now_s = time.perf_counter()
        with self._lock:
            if self._stop.is_set():
                raise self._stopping()
            deadline, job.deadline = job.deadline, None  # the dispatcher knows what can be kept
            try:
                self.admission.admit(job, self._load(now_s, is_timed=False), now_s)
            finally:
                job.deadline = deadline
        job.future.add_done_callback(lambda _: self._over(job))
        if not job.n_results:
            job.end(now_s)
            return job
        try:
            self._dispatcher.dispatch(job, content, take)
        except DeadlineUnattainableError:
            self.admission.counts.refused += 1
            job.cancel()
            raise
        except BaseException:
            job.cancel()
            raise
        return job

    def _over(self, job: Job) -> None:
        with self._lock:
            self.admission.queue.drop([job])
        self._ended(job)

    def _step(self) -> None:
        """Do nothing: there are no passes here."""

    def _give_back(self) -> None:
        """Do nothing: there are no weights here."""


class RemoteEncoderLoop(RemoteJobLoop[EncodeJob], EncodingLoop):
    """One encoder that runs elsewhere."""

    def submit(
        self,
        texts: Sequence[TextRows],
        reduction: Reduction,
        deadline: Deadline | None = None,
        arrived_s: float | None = None,
    ) -> EncodeJob:
        """Take a job on, see `EncodingLoop.submit`."""
        if reduction.reading is None:
            raise RequestError(f"{reduction.name} cannot be computed by an encoder in another process")
        job = EncodeJob(texts, reduction, deadline, time.perf_counter() if arrived_s is None else arrived_s)
        content: Content = {
            "texts": [[list(map(int, text.tokens)), list(map(int, text.types))] for text in texts],
            "reading": reduction.reading.plain(),
        }
        return self._send(job, content, lambda index, value: job.keep(index, reduction.then(index, value)))
