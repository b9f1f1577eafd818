"""The loop of one encoder: whole texts through the backend, each text's states to its job's reduction.

Owns the passes. Knows neither text nor HTTP; the thread, the promises and the ends of jobs are `JobLoop`'s. Invariant:
only the loop's thread calls the backend between `EncoderLoop` and `close`.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial

from miaotui.backends.encoder_backend import EncoderBackend, TextRows
from miaotui.engine.encoding.calibrate import calibrate_encoder
from miaotui.engine.encoding.job import EncodeJob, Reduction
from miaotui.engine.encoding.queue import EncodeQueue, Pick, job_work_s
from miaotui.engine.jobs.admission import JobAdmission, QueueLimits
from miaotui.engine.jobs.loop import JobLoop
from miaotui.engine.turns import CoreTurns
from miaotui.schedule.promises.cost import CostModel, StepShape
from miaotui.types import Deadline

REDUCTION_WEIGHT = 0.1  # of the newest text in what a reduction takes for a row


class EncodingLoop(JobLoop[EncodeJob]):
    """One encoder, wherever its passes run. `submit` may be called from any thread and returns at once."""

    noun = "encoder"

    @abstractmethod
    def submit(
        self,
        texts: Sequence[TextRows],
        reduction: Reduction,
        deadline: Deadline | None = None,
        arrived_s: float | None = None,
    ) -> EncodeJob:
        """Take a job on; `EncodeJob.future` is its outcome.

        ``texts`` must fit `EncoderLimits` one by one. Raises `DeadlineUnattainableError` when it could not be done in
        its time and `OverloadedError`.
        """


class EncoderLoop(EncodingLoop):
    """One encoder whose passes run here."""

    def __init__(
        self,
        backend: EncoderBackend,
        limits: QueueLimits | None = None,
        turns: CoreTurns | None = None,
        cost: CostModel | None = None,
    ) -> None:
        """Start the thread. Without ``cost``, passes measure it here (at most about half a second)."""
        super().__init__(turns)
        self.backend = backend
        self.cost = cost or CostModel(calibrate_encoder(backend, self._turns))
        self._queue = EncodeQueue(backend.limits, self.cost)
        work_s = partial(job_work_s, self.cost, backend.limits)
        self.admission = JobAdmission(self._queue, work_s, self.cost.allowed_s, limits or QueueLimits())
        self._reduce_s: dict[str, float] = {}  # of one row, by the name of the reduction; learned as it runs
        self._start()

    def submit(
        self,
        texts: Sequence[TextRows],
        reduction: Reduction,
        deadline: Deadline | None = None,
        arrived_s: float | None = None,
    ) -> EncodeJob:
        """Take a job on, see `EncodingLoop.submit`."""
        now_s = time.perf_counter()
        job = EncodeJob(texts, reduction, deadline, now_s if arrived_s is None else arrived_s)
        job.reduce_row_s = self._reduce_s.get(reduction.name, 0.0)
        return self._submit(job, now_s)

    @property
    def waiting_tokens(self) -> int:
        """Return tokens that no pass has begun to compute."""
        with self._lock:
            return self._queue.tokens

    def _give_back(self) -> None:
        self.backend.close()

    def _step(self) -> None:
        """Run one pass over what is due next."""
        start_s = time.perf_counter()
        with self._lock:
            self._queue.sweep()
            picks = self._queue.next_pass(start_s)
            shape = _shape(picks)
            self._pass_end_s = start_s + self.cost.seconds(shape.rows, 0, shape.attended)
        if not picks:
            return
        jobs = list({pick.job.number: pick.job for pick in picks}.values())
        try:
            self._compute(picks, shape, start_s)
        except Exception as error:  # a reduction or the backend failed; the loop goes on
            self._fail(jobs, error)
        self._finish(jobs)

    def _compute(self, picks: Sequence[Pick], shape: StepShape, start_s: float) -> None:
        for job in {id(pick.job): pick.job for pick in picks}.values():
            job.began_s = start_s if job.began_s is None else job.began_s
        result = self.backend.encode([pick.job.texts[pick.place] for pick in picks])
        computed_s = time.perf_counter()
        self.cost.observe(shape, computed_s - start_s, result.seconds)
        for (job, place), states in zip(picks, result.states, strict=True):
            if not job.is_over:
                job.put(place, states)
            reduced_s = time.perf_counter()
            self._learn_reduction(job.reduction.name, (reduced_s - computed_s) / len(states))
            computed_s = reduced_s
        with self._lock:
            self.counts.update(passes=1, texts=len(picks), tokens=shape.rows)

    def _learn_reduction(self, name: str, row_s: float) -> None:
        known = self._reduce_s.get(name, row_s)
        self._reduce_s[name] = known + REDUCTION_WEIGHT * (row_s - known)


def _shape(picks: Sequence[Pick]) -> StepShape:
    lengths = [len(job.texts[place].tokens) for job, place in picks]
    return StepShape(sum(lengths), 0, sum(n * n for n in lengths))
