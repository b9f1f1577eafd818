"""The thread that does one model's jobs. Everything that asks for their results goes through it.

Owns the thread, the lock of the queue, and the turns at the cores. Knows neither what a job is of nor HTTP: a subclass
has the queue, the admission and the step. Invariants: only this thread computes between the start and `close`; every
submitted job ends exactly once, also when the loop stops or a step fails; no job is taken on whose promise could not be
kept.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from typing import Generic

from miaotui.engine.jobs.admission import Job, JobAdmission, Load
from miaotui.engine.loop import SWITCH_S
from miaotui.engine.reading.readers import Wakeup
from miaotui.engine.turns import FIRST, REST, CoreTurns, shared_turns
from miaotui.errors import EngineError, MiaotuiError, OverloadedError
from miaotui.schedule.promises.cost import CostModel

logger = logging.getLogger("miaotui.engine")


class JobLoop(ABC, Generic[Job]):
    """One model that does jobs, in a thread of its own. ``noun`` names it in errors.

    A subclass sets up its queue and `admission` before it calls `_start`.
    """

    noun = "model"
    admission: JobAdmission[Job]
    cost: CostModel

    def __init__(self, turns: CoreTurns | None = None) -> None:
        self.counts: Counter[str] = Counter()  # jobs by end, texts, tokens, passes
        self.shares_cores = False
        self._turns = turns or shared_turns()
        self._lock = threading.Lock()
        self._pass_end_s = 0.0  # foreseen, of the pass under way
        self._wakeup, self._stop = Wakeup(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"miaotui-engine-{self.noun}", daemon=True)

    def _start(self) -> None:
        self._turns.join(self)
        self._thread.start()

    # what a subclass does --------------------------------------------------------------------------

    @abstractmethod
    def _step(self) -> None:
        """Do the work that is due next, within one turn at the cores."""

    @abstractmethod
    def _give_back(self) -> None:
        """Give the memory of the model back, once the thread has ended."""

    # from any thread -----------------------------------------------------------------------------

    @property
    def may_sleep(self) -> bool:
        """Return whether there may be no engine until a job comes."""
        return False

    def _submit(self, job: Job, now_s: float) -> Job:
        """Take a job on. Raises `DeadlineUnattainableError` and `OverloadedError`."""
        load = self._load(now_s, is_timed=job.deadline is not None)
        with self._lock:
            if self._stop.is_set():
                raise self._stopping()
            self.admission.admit(job, load, now_s)
        job.future.add_done_callback(lambda _: self._ended(job))
        if not job.n_results:
            job.end(now_s)
        self._wakeup.call()
        return job

    def _load(self, now_s: float, *, is_timed: bool) -> Load:
        """Return what the cores do before a new job; only promises need to know of other models."""
        ahead_s = max(self._pass_end_s - now_s, 0.0)
        if not is_timed:
            return Load(ahead_s)
        spare_s = min((other.spare_s() for other in self._turns.others(self)), default=float("inf"))
        return Load(ahead_s + self._turns.ahead_of_s(self), spare_s)

    @property
    def in_flight(self) -> int:
        """Return jobs that have not ended."""
        return len(self.admission.queue)

    def close(self) -> None:
        """Cancel what waits, end the thread and give the memory back. Closing twice does nothing."""
        self._stop.set()
        self._wakeup.call()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._turns.leave(self)
        self._give_back()

    # as one of several models ----------------------------------------------------------------------

    def turn_rank(self) -> int:
        """Return `FIRST` while a promised job waits: it was admitted with the spare time of the others."""
        with self._lock:
            return FIRST if any(job.promised for job in self.admission.queue) else REST

    def spare_s(self) -> float:
        """Return how long the cores may be taken, beyond what all have promised, without breaking a promise."""
        ahead_s = self._turns.ahead_of_s(self)
        with self._lock:
            return self.admission.spare_s(time.perf_counter()) - ahead_s

    def ahead_s(self) -> float:
        """Return the seconds of promised work, and of the pass under way."""
        with self._lock:
            return self.admission.promised_s + max(self._pass_end_s - time.perf_counter(), 0.0)

    def hurry(self) -> None:
        """Do nothing: a pass is short."""

    # the loop's thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
        while not self._stop.is_set():
            if not self.admission.queue:
                self._wakeup.wait()
                continue
            self._turns.enter(self)
            try:
                self._step()
            finally:
                self._turns.done(self)
        with self._lock:
            left = list(self.admission.queue)
            self.admission.queue.drop(left)
        for job in left:
            job.end(time.perf_counter(), self._stopping())

    def _stopping(self) -> OverloadedError:
        return OverloadedError(f"the {self.noun} is stopping: ask again in a moment", 1.0)

    def _fail(self, jobs: Iterable[Job], error: Exception) -> None:
        """Fail the jobs of a pass with its error; one that is no fault of theirs is logged."""
        if not isinstance(error, MiaotuiError):
            logger.error("a pass of the %s failed", self.noun, exc_info=error)
            error = EngineError(f"the {self.noun} failed: {type(error).__name__}: {error}. Ask again")
        for job in jobs:
            job.end(time.perf_counter(), error)

    def _finish(self, jobs: Iterable[Job]) -> None:
        """Hand over the jobs that are complete."""
        over = [job for job in jobs if job.is_complete or job.is_over]
        now_s = time.perf_counter()
        with self._lock:
            self.admission.queue.drop(over)
            self._pass_end_s = 0.0
        for job in over:
            job.end(now_s)

    def _ended(self, job: Job) -> None:
        """Count a job's end, in the thread that brought it about."""
        with self._lock:
            self.counts[job.finish_reason or "failed"] += 1
            self.admission.settle(job)
        if job.finish_reason == "cancelled":
            self._wakeup.call()
