"""Earliest deadline first: who is served, who gives way, and that nobody starves."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from paged_device import VOCABULARY, PagedDevice, Request

from miaotui.schedule import PAGE_SIZE, Plan, ScheduleConfig, Scheduler
from miaotui.schedule.plan import NO_LIMITS, StepLimits
from miaotui.schedule.scheduler import OVERDUE_TURN, PATIENCE

HOLD = StepLimits(hold_best_effort=True)


def make(n_pages: int = 64, **limits: int) -> Scheduler:
    return Scheduler(ScheduleConfig(**{"n_pages": n_pages, "context": 1000, **limits}))


def prompt(length: int, salt: int = 0) -> list[int]:
    return [salt * 1000 + i for i in range(length)]


def step(scheduler: Scheduler, limits: StepLimits = NO_LIMITS) -> Plan:
    plan = scheduler.plan({}, limits)
    scheduler.commit(plan, {chunk.sequence: [1] for chunk in plan.chunks if chunk.n_logits})
    scheduler.check()
    return plan


def who(plan: Plan) -> list[int]:
    return [chunk.sequence for chunk in plan.chunks]


def test_the_earliest_due_comes_first_whenever_it_came() -> None:
    scheduler = make(max_rows=20, max_sequences=8, chunk_size=20)
    for number, due in ((0, None), (1, 300), (2, 100), (3, 200)):
        scheduler.add(number, prompt(20, number), 5, due=due)
    assert who(step(scheduler)) == [2]
    assert who(step(scheduler)) == [2, 3]
    scheduler.add(4, prompt(10, 4), 5, due=50)
    assert who(step(scheduler))[0] == 4


def test_best_effort_is_held_back_while_told_and_goes_on_after() -> None:
    scheduler = make()
    scheduler.add(0, prompt(10), 50)
    step(scheduler)
    scheduler.add(1, prompt(10, 1), 50, due=7)
    assert who(step(scheduler, HOLD)) == [1]
    assert who(step(scheduler, HOLD)) == [1]
    assert who(step(scheduler)) == [1, 0]


def test_holding_everybody_back_holds_nobody() -> None:
    scheduler = make()
    scheduler.add(0, prompt(10), 50)
    assert who(step(scheduler, HOLD)) == [0]


def test_best_effort_gives_up_its_place_and_its_pages_to_whoever_is_due() -> None:
    scheduler = make(n_pages=8, max_sequences=2)
    scheduler.add(0, prompt(30), 50)
    scheduler.add(1, prompt(30, 1), 50)
    step(scheduler)
    scheduler.add(2, prompt(60, 2), 20, due=5)
    assert who(step(scheduler))[0] == 2
    stats = scheduler.stats()
    assert (stats.running, stats.paused) == (2, 1)
    scheduler.add(3, prompt(50, 3), 10, due=6)
    step(scheduler)
    assert scheduler.stats().paused == 2


def test_prompts_due_later_wait_while_told() -> None:
    scheduler = make()
    scheduler.add(0, prompt(10), 50, due=5)
    step(scheduler)
    scheduler.add(1, prompt(10, 1), 50, due=9)
    assert who(step(scheduler, StepLimits(prompts_until=5))) == [0]
    assert who(step(scheduler, StepLimits(prompts_until=9))) == [0, 1]


def test_prompt_rows_and_width_are_bounded_as_told() -> None:
    scheduler = make()
    for number in range(5):
        scheduler.add(number, prompt(40, number), 50)
    plan = step(scheduler, StepLimits(prompt_rows=60, width=3))
    assert [len(chunk.tokens) for chunk in plan.chunks] == [40, 20]
    step(scheduler, StepLimits(width=3))
    step(scheduler, StepLimits(width=3))
    assert scheduler.stats().running == 3


def test_who_lost_its_due_time_stands_behind_those_who_have_one() -> None:
    scheduler = make(max_rows=10, max_sequences=8, chunk_size=10)
    scheduler.add(0, prompt(10), 50, due=5)
    scheduler.add(1, prompt(10, 1), 50, due=9)
    scheduler.defer(0)
    scheduler.check()
    assert who(scheduler.plan()) == [1]
    scheduler.defer(99)  # long gone


def test_nobody_starves_beside_an_endless_stream_of_due_work() -> None:
    scheduler = make(n_pages=64, max_sequences=2)
    scheduler.add(10_000, prompt(40, 99), 30)
    number = 0
    for turn in range(4000):
        while scheduler.stats().waiting < 2:
            scheduler.add(number, prompt(20, number), 12, due=turn)
            number += 1
        step(scheduler, HOLD)
        if scheduler.progress(10_000)[1] == 70:
            break
    assert scheduler.progress(10_000) in ((69, 70), (0, 70))
    assert turn < PATIENCE + 40 + OVERDUE_TURN * 10 + 80


class DeadlineMachine(RuleBasedStateMachine):
    """Due times, limits and deferrals at random: pages stay right, answers too, everyone ends."""

    @initialize(
        n_pages=st.integers(3, 10),
        max_sequences=st.integers(1, 4),
        chunk_size=st.sampled_from([7, 16, 64]),
        reuse_prefix=st.booleans(),
    )
    def start(self, n_pages: int, max_sequences: int, chunk_size: int, reuse_prefix: bool) -> None:
        self.config = ScheduleConfig(n_pages, 1000, 80, max_sequences, chunk_size, reuse_prefix)
        self.scheduler, self.device = Scheduler(self.config), PagedDevice(n_pages)
        self.requests: dict[int, Request] = {}
        self.tokens: dict[int, list[int]] = {}
        self.count = 0

    @rule(
        length=st.sampled_from([1, 15, 17, 33, 45]),
        salt=st.integers(0, 2),
        max_tokens=st.integers(1, 30),
        due=st.one_of(st.none(), st.integers(0, 100)),
    )
    def add(self, length: int, salt: int, max_tokens: int, due: int | None) -> None:
        tokens = tuple((i * i + salt) % VOCABULARY for i in range(length))
        room = self.config.n_pages * PAGE_SIZE + 1 - length
        if room < 1:
            return
        request = Request(tokens, min(max_tokens, room))
        self.scheduler.add(self.count, tokens, request.max_tokens, due=due)
        self.requests[self.count], self.tokens[self.count] = request, list(tokens)
        self.count += 1

    @rule(
        steps=st.integers(1, 10),
        hold=st.booleans(),
        until=st.one_of(st.none(), st.integers(0, 100)),
        rows=st.one_of(st.none(), st.integers(1, 50)),
        width=st.one_of(st.none(), st.integers(1, 5)),
    )
    def steps(self, steps: int, hold: bool, until: int | None, rows: int | None, width: int | None) -> None:
        for _ in range(steps):
            self.advance(StepLimits(rows, width, hold, until))

    def advance(self, limits: StepLimits) -> None:
        plan = self.scheduler.plan({}, limits)
        assert bool(plan.chunks) == bool(self.tokens), "while there is work, a plan has rows"
        new = self.device.run(plan, self.tokens, dict.fromkeys(self.tokens, 0))
        self.scheduler.commit(plan, new)
        self.scheduler.check()
        for sequence, accepted in new.items():
            self.tokens[sequence] += accepted
            request = self.requests[sequence]
            if len(self.tokens[sequence]) == len(request.prompt) + request.max_tokens:
                answer = self.tokens.pop(sequence)[len(request.prompt) :]
                assert answer == request.answer()
                self.scheduler.finish(sequence)

    @precondition(lambda self: self.tokens)
    @rule(index=st.integers(0, 9), cancel=st.booleans())
    def leave_or_defer(self, index: int, cancel: bool) -> None:
        sequence = list(self.tokens)[index % len(self.tokens)]
        if cancel:
            del self.tokens[sequence]
            self.scheduler.cancel(sequence)
        else:
            self.scheduler.defer(sequence)

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.check()

    def teardown(self) -> None:
        """Everyone ends, though best effort is held back all the time."""
        if not hasattr(self, "scheduler"):
            return
        waits = PATIENCE + 4 * OVERDUE_TURN * 20
        most = sum(waits + 8 * len(r.prompt) + 8 * r.max_tokens for r in self.requests.values())
        steps = 0
        while self.tokens:
            self.advance(HOLD)
            steps += 1
            assert steps <= most
        assert self.scheduler.stats().pages_used == 0


TestDeadlineMachine = DeadlineMachine.TestCase
TestDeadlineMachine.settings = settings(max_examples=100, stateful_step_count=25, deadline=None, derandomize=True)
