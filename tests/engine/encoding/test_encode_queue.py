"""Which texts a pass gets: whole texts, promises first, short jobs beside long ones."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_encoder import FIRST, rows_of, texts_of

from miaotui.backends.encoder_backend import EncoderLimits
from miaotui.engine.encoding.job import EncodeJob
from miaotui.engine.encoding.queue import LEAST_ROWS, EncodeQueue, job_work_s, work_s
from miaotui.engine.jobs.admission import JobAdmission, Load, QueueLimits
from miaotui.errors import DeadlineUnattainableError, OverloadedError
from miaotui.schedule.promises.cost import CostModel, CostRates
from miaotui.schedule.promises.promise import HAND_OVER_S
from miaotui.types import Deadline

LIMITS = EncoderLimits(rows=512, tokens=256)


def cost_of(row_s: float = 1e-4) -> CostModel:
    """A machine on which a row takes ``row_s``, and attention nothing."""
    return CostModel(CostRates([(1, row_s), (1024, 1024 * row_s)], 0.0, 0.0))


def job_of(*lengths: int, due_s: float = math.inf) -> EncodeJob:
    job = EncodeJob(texts_of(*lengths), FIRST, None, 0.0)
    job.due_s = due_s
    return job


def queue_of(*jobs: EncodeJob, row_s: float = 1e-5) -> EncodeQueue:
    queue = EncodeQueue(LIMITS, cost_of(row_s))
    for job in jobs:
        queue.add(job)
    return queue


@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 256), max_size=20), st.one_of(st.just(math.inf), st.floats(0, 9))), max_size=8
    ),
    st.sampled_from([1e-7, 1e-5, 1e-3]),
)
def test_every_text_is_computed_once_whole_and_in_the_order_of_its_job(
    shapes: list[tuple[list[int], float]], row_s: float
) -> None:
    jobs = [job_of(*lengths, due_s=due_s) for lengths, due_s in shapes]
    queue, seen, now_s = queue_of(*jobs, row_s=row_s), Counter[tuple[int, int]](), 0.0
    while picks := queue.next_pass(now_s):
        assert rows_of(picks) <= LIMITS.rows
        for job in jobs:
            places = [place for each, place in picks if each is job]
            assert places == sorted(places)
        seen.update((job.number, place) for job, place in picks)
        now_s += row_s * rows_of(picks)
    assert seen == Counter({(job.number, place): 1 for job in jobs for place in range(len(job.texts))})
    assert queue.tokens == 0


def test_a_short_query_does_not_wait_for_a_long_job() -> None:
    long, queue = job_of(*[100] * 1000), queue_of()
    queue.add(long)
    for _ in range(20):
        queue.next_pass(0.0)
    short = job_of(8)
    queue.add(short)
    assert any(job is short for job, _ in queue.next_pass(0.0))


def test_long_jobs_share_rows_evenly() -> None:
    many, few = job_of(*[10] * 500), job_of(*[100] * 50)
    queue = queue_of(many, few)
    for _ in range(4):
        queue.next_pass(0.0)
    assert abs((many.n_tokens - many.rows_left) - (few.n_tokens - few.rows_left)) <= 200


def test_the_earliest_deadline_is_first() -> None:
    late, soon, none = job_of(50, due_s=9.0), job_of(50, due_s=1.0), job_of(50)
    picks = queue_of(none, late, soon).next_pass(0.0)
    assert [job for job, _ in picks] == [soon, late, none]


def test_a_pass_is_not_filled_up_where_that_breaks_a_promise() -> None:
    urgent, other = job_of(100, due_s=0.0125), job_of(*[100] * 9)
    picks = queue_of(urgent, other, row_s=1e-4).next_pass(0.0)
    assert [job for job, _ in picks] == [urgent]


def test_passes_are_short_but_not_tiny_on_a_slow_machine() -> None:
    fast = queue_of(job_of(*[32] * 99), row_s=1e-4).next_pass(0.0)
    slow = queue_of(job_of(*[32] * 99), row_s=1e-2).next_pass(0.0)
    assert LEAST_ROWS < rows_of(fast) <= 200  # 20 ms
    assert rows_of(slow) == LEAST_ROWS


def test_cancelled_jobs_are_swept() -> None:
    gone, stays = job_of(5), job_of(5)
    queue = queue_of(gone, stays)
    gone.cancel()
    assert queue.sweep() == [gone]
    assert [job for job, _ in queue.next_pass(0.0)] == [stays]


@given(st.integers(0, 5000), st.integers(0, 5000), st.floats(1, 200))
def test_more_work_never_costs_less(rows: int, more: int, seen: float) -> None:
    cost = CostModel(CostRates([(1, 1e-3), (64, 2e-3), (512, 3e-2)], 0.0, 1e-9))
    few = work_s(cost, LIMITS, rows, int(rows * seen))
    many = work_s(cost, LIMITS, rows + more, int((rows + more) * seen))
    assert many >= few * 0.75  # a last pass that is full costs less than two that are half full


# promises -------------------------------------------------------------------------------------------


def timed(ms: float, *lengths: int, arrived_s: float = 0.0, late: str = "refuse") -> EncodeJob:
    return EncodeJob(texts_of(*lengths), FIRST, Deadline(ms, on_late=late), arrived_s)  # type: ignore[arg-type]


def admission_of(row_s: float = 1e-4, limits: QueueLimits | None = None) -> tuple[EncodeQueue, JobAdmission[EncodeJob]]:
    cost = cost_of(row_s)
    queue = EncodeQueue(LIMITS, cost)
    work_s = partial(job_work_s, cost, LIMITS)
    return queue, JobAdmission(queue, work_s, cost.allowed_s, limits or QueueLimits())


def test_a_deadline_that_cannot_be_met_is_refused_with_the_predicted_time() -> None:
    queue, admission = admission_of()
    with pytest.raises(DeadlineUnattainableError) as caught:
        admission.admit(timed(20, *[256] * 4), Load(), 0.0)
    assert 102 < caught.value.predicted_ms < 160
    assert len(queue) == 0
    assert admission.counts.refused == 1


def test_a_deadline_that_leaves_no_time_at_all_is_refused() -> None:
    _, admission = admission_of()
    with pytest.raises(DeadlineUnattainableError):
        admission.admit(timed(HAND_OVER_S * 1e3, 1), Load(), 0.0)


def test_a_promise_that_stands_is_not_broken_by_a_new_one() -> None:
    queue, admission = admission_of()
    admission.admit(timed(40, 250), Load(), 0.0)
    with pytest.raises(DeadlineUnattainableError):
        admission.admit(timed(30, 200), Load(), 0.0)
    admission.admit(timed(200, 200), Load(), 0.0)  # goes behind it
    assert len(queue) == 2


def test_work_without_a_promise_does_not_keep_one_from_being_given() -> None:
    _, admission = admission_of()
    for _ in range(50):
        admission.admit(EncodeJob(texts_of(*[256] * 8), FIRST, None, 0.0), Load(), 0.0)
    job = timed(60, 250)
    admission.admit(job, Load(ahead_s=0.02), 0.0)
    assert job.promised
    assert 45 < job.predicted_ms < 60


def test_a_late_result_is_taken_where_the_caller_prefers_it() -> None:
    _, admission = admission_of()
    job = timed(5, 250, late="best_effort")
    admission.admit(job, Load(), 0.0)
    assert not job.promised
    assert job.predicted_ms > 5


def test_what_other_models_have_promised_limits_what_is_promised_here() -> None:
    _, admission = admission_of()
    with pytest.raises(DeadlineUnattainableError):
        admission.admit(timed(1000, 250), Load(spare_s=0.01), 0.0)
    admission.admit(timed(1000, 250), Load(spare_s=0.03), 0.0)


def test_the_queue_is_bounded() -> None:
    _, admission = admission_of(limits=QueueLimits(jobs=2, tokens=100))
    admission.admit(job_of(200), Load(), 0.0)  # alone it may be larger
    with pytest.raises(OverloadedError, match="200 tokens"):
        admission.admit(job_of(1), Load(), 0.0)
    _, admission = admission_of(limits=QueueLimits(jobs=2, tokens=100))
    admission.admit(job_of(50), Load(), 0.0)
    admission.admit(job_of(50), Load(), 0.0)
    with pytest.raises(OverloadedError, match="2 requests"):
        admission.admit(job_of(1), Load(), 0.0)


@given(st.lists(st.tuples(st.integers(1, 400), st.lists(st.integers(1, 256), min_size=1, max_size=6)), max_size=12))
def test_admitted_promises_are_kept_when_time_is_as_foreseen(asked: list[tuple[int, list[int]]]) -> None:
    queue, admission = admission_of()
    jobs: list[EncodeJob] = []
    for ms, lengths in asked:
        job = timed(ms, *lengths)
        try:
            admission.admit(job, Load(), 0.0)
        except DeadlineUnattainableError:
            continue
        jobs.append(job)
    now_s, ends = 0.0, dict[int, float]()
    while picks := queue.next_pass(now_s):
        now_s += 1e-4 * rows_of(picks)
        ends.update({job.number: now_s for job, _ in picks})
        queue.drop([job for job in jobs if job.taken == len(job.texts)])
    assert all(ends[job.number] <= job.due_s for job in jobs)
