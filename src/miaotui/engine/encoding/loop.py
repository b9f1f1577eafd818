"""The thread that runs one encoder. Everything that asks for states of texts goes through it.

Owns the thread, the queue's lock, and the passes: a turn at the cores, whole texts through the backend, each text's
states to its job's reduction. Knows neither text nor HTTP. Invariants: only this thread calls the backend between
`EncoderLoop` and `close`; every submitted job ends exactly once, also when the loop stops or a pass fails; no job is
taken on whose promise could not be kept.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence

from miaotui.backends.encoder_backend import EncoderBackend, TextRows
from miaotui.engine.encoding.admission import EncoderAdmission, Load, QueueLimits
from miaotui.engine.encoding.calibrate import calibrate_encoder
from miaotui.engine.encoding.job import EncodeJob, Reduction
from miaotui.engine.encoding.queue import EncodeQueue, Pick
from miaotui.engine.loop import SWITCH_S
from miaotui.engine.reading.readers import Wakeup
from miaotui.engine.turns import FIRST, REST, CoreTurns, shared_turns
from miaotui.errors import EngineError, MiaotuiError, OverloadedError
from miaotui.schedule.promises.cost import CostModel, StepShape
from miaotui.types import Deadline

REDUCTION_WEIGHT = 0.1  # of the newest text in what a reduction takes for a row

logger = logging.getLogger("miaotui.engine")


class EncoderLoop:
    """One encoder that runs. `submit` may be called from any thread and returns at once."""

    def __init__(
        self,
        backend: EncoderBackend,
        limits: QueueLimits | None = None,
        turns: CoreTurns | None = None,
        cost: CostModel | None = None,
    ) -> None:
        """Start the thread. Without ``cost``, passes measure it here (at most about half a second)."""
        self.backend = backend
        self.counts: Counter[str] = Counter()  # jobs by end, texts, tokens, passes
        self.shares_cores = False
        self._turns = turns or shared_turns()
        self.cost = cost or CostModel(calibrate_encoder(backend, self._turns))
        self._queue = EncodeQueue(backend.limits, self.cost)
        self.admission = EncoderAdmission(self._queue, self.cost, backend.limits, limits or QueueLimits())
        self._lock = threading.Lock()
        self._reduce_s: dict[str, float] = {}  # of one row, by the name of the reduction; learned as it runs
        self._pass_end_s = 0.0  # foreseen, of the pass under way
        self._wakeup, self._stop = Wakeup(), threading.Event()
        self._turns.join(self)
        self._thread = threading.Thread(target=self._run, name="miaotui-engine-encoder", daemon=True)
        self._thread.start()

    # from any thread -----------------------------------------------------------------------------

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
        now_s = time.perf_counter()
        job = EncodeJob(texts, reduction, deadline, now_s if arrived_s is None else arrived_s)
        job.reduce_row_s = self._reduce_s.get(reduction.name, 0.0)
        self._admit(job, now_s)
        job.future.add_done_callback(lambda _: self._ended(job))
        if not texts:
            job.end(now_s)
        self._wakeup.call()
        return job

    def _admit(self, job: EncodeJob, now_s: float) -> None:
        load = self._load(now_s, is_timed=job.deadline is not None)
        with self._lock:
            if self._stop.is_set():
                raise OverloadedError("the encoder is stopping: ask again in a moment", 1.0)
            self.admission.admit(job, load, now_s)

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
        return len(self._queue)

    @property
    def waiting_tokens(self) -> int:
        """Return tokens that no pass has begun to compute."""
        with self._lock:
            return self._queue.tokens

    def close(self) -> None:
        """Cancel what waits, end the thread and give the memory back. Closing twice does nothing."""
        self._stop.set()
        self._wakeup.call()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._turns.leave(self)
        self.backend.close()

    # as one of several models ----------------------------------------------------------------------

    def turn_rank(self) -> int:
        """Return `FIRST` while a promised job waits: it was admitted with the spare time of the others."""
        with self._lock:
            return FIRST if any(job.promised for job in self._queue) else REST

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
            if not self._queue:
                self._wakeup.wait()
                continue
            self._turns.enter(self)
            try:
                self._step()
            finally:
                self._turns.done(self)
        with self._lock:
            left = list(self._queue)
            self._queue.drop(left)
        for job in left:
            job.end(time.perf_counter(), OverloadedError("the encoder is stopping: ask again in a moment", 1.0))

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
        try:
            self._compute(picks, shape, start_s)
        except Exception as error:  # a reduction or the backend failed; the loop goes on
            self._fail(picks, error)
        self._finish(picks)

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

    def _fail(self, picks: Sequence[Pick], error: Exception) -> None:
        """Fail the jobs of a pass with its error; one that is no fault of the texts is logged."""
        if not isinstance(error, MiaotuiError):
            logger.error("a pass of an encoder failed", exc_info=error)
            error = EngineError(f"the encoder failed: {type(error).__name__}: {error}. Ask again")
        for pick in picks:
            pick.job.end(time.perf_counter(), error)

    def _finish(self, picks: Sequence[Pick]) -> None:
        """Hand over the jobs that are complete."""
        jobs = {pick.job.number: pick.job for pick in picks}.values()
        over = [job for job in jobs if job.is_complete or job.is_over]
        now_s = time.perf_counter()
        with self._lock:
            self._queue.drop(over)
            self._pass_end_s = 0.0
        for job in over:
            job.end(now_s)

    def _ended(self, job: EncodeJob) -> None:
        """Count a job's end, in the thread that brought it about."""
        with self._lock:
            self.counts[job.finish_reason or "failed"] += 1
            self.admission.settle(job)
        if job.finish_reason == "cancelled":
            self._wakeup.call()


def _shape(picks: Sequence[Pick]) -> StepShape:
    lengths = [len(job.texts[place].tokens) for job, place in picks]
    return StepShape(sum(lengths), 0, sum(n * n for n in lengths))
