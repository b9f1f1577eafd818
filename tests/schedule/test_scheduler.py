"""What a scheduler promises, one behaviour per test."""

from __future__ import annotations

import pytest
from paged_device import PagedDevice, Request

from miaotui.errors import EngineError, PromptTooLongError, RequestError
from miaotui.schedule import Plan, ScheduleConfig, Scheduler


def make(n_pages: int = 64, **limits) -> Scheduler:
    return Scheduler(ScheduleConfig(**{"n_pages": n_pages, "context": 1000, **limits}))


def shares(plan: Plan) -> list[tuple[int, int, int, int]]:
    """Per chunk: sequence, start, rows, logits."""
    return [(c.sequence, c.start, len(c.tokens), c.n_logits) for c in plan.chunks]


def step(scheduler: Scheduler, token: int = 1, drafts=None, accepted=None) -> Plan:
    """Plan, pretend to run, commit: chunks with logits get ``token`` unless told otherwise."""
    plan = scheduler.plan(drafts or {})
    new = {chunk.sequence: [token] for chunk in plan.chunks if chunk.n_logits}
    scheduler.commit(plan, new | (accepted or {}))
    scheduler.check()
    return plan


def prompt(length: int, salt: int = 0) -> list[int]:
    return [salt * 1000 + i for i in range(length)]


def test_nothing_to_do_is_an_empty_plan():
    scheduler = make()
    plan = scheduler.plan()
    assert plan == Plan(())
    scheduler.commit(plan, {})


def test_a_prompt_then_one_row_per_step_until_it_has_its_tokens():
    scheduler = make()
    scheduler.add(3, [5, 6, 7], 3)
    plans = [step(scheduler, token) for token in (8, 9, 10)]
    assert [shares(plan) for plan in plans] == [[(3, 0, 3, 1)], [(3, 3, 1, 1)], [(3, 4, 1, 1)]]
    assert [plan.chunks[0].tokens for plan in plans] == [(5, 6, 7), (8,), (9,)]
    assert step(scheduler) == Plan(())
    assert scheduler.stats().pages_used == 0
    scheduler.finish(3)


def test_decodes_come_before_prompts_and_prompts_oldest_first():
    scheduler = make(max_rows=20, max_sequences=4, chunk_size=16)
    scheduler.add(0, prompt(4), 9)
    step(scheduler)
    for sequence in (1, 2, 3):
        scheduler.add(sequence, prompt(17, sequence), 9)
    assert shares(step(scheduler)) == [(0, 4, 1, 1), (1, 0, 16, 0), (2, 0, 3, 0)]
    assert shares(step(scheduler)) == [(0, 5, 1, 1), (1, 16, 1, 1), (2, 3, 14, 1), (3, 0, 4, 0)]


def test_no_more_sequences_run_than_allowed():
    scheduler = make(max_sequences=2)
    for sequence in range(3):
        scheduler.add(sequence, prompt(3, sequence), 2)
    step(scheduler)
    assert (scheduler.stats().running, scheduler.stats().waiting) == (2, 1)
    step(scheduler)  # both are done
    assert shares(step(scheduler)) == [(2, 0, 3, 1)]


def test_accepted_drafts_advance_by_as_many_tokens():
    scheduler = make()
    scheduler.add(0, [1, 2, 3], 20)
    step(scheduler, 4)
    plan = step(scheduler, drafts={0: [5, 6, 7]}, accepted={0: [5, 6, 9]})
    assert plan.chunks[0].tokens == (4, 5, 6, 7)
    assert shares(plan) == [(0, 3, 4, 4)]
    assert scheduler.plan().chunks[0].tokens == (9,)
    assert shares(scheduler.plan()) == [(0, 6, 1, 1)]


def test_drafts_never_exceed_the_answer_and_wait_for_the_end_of_the_prompt():
    scheduler = make(chunk_size=2)
    scheduler.add(0, [1, 2, 3], 3)
    drafts = {0: [7, 7, 7, 7], 99: [1]}
    assert shares(step(scheduler, drafts=drafts)) == [(0, 0, 2, 0)]
    assert shares(step(scheduler, drafts=drafts)) == [(0, 2, 3, 3)]
    assert shares(step(scheduler, drafts=drafts)) == [(0, 3, 2, 2)]


def test_pages_of_rejected_drafts_come_back():
    scheduler = make(reuse_prefix=False)
    scheduler.add(0, prompt(15), 100)
    step(scheduler)
    plan = step(scheduler, token=9, drafts={0: [1] * 40})
    assert len(plan.chunks[0].pages) == 4
    assert scheduler.stats().pages_used == 1


def test_a_later_request_shares_all_full_pages_but_that_of_its_last_token():
    scheduler = make()
    scheduler.add(0, prompt(48), 5)
    first = step(scheduler)
    scheduler.add(1, prompt(48), 5)
    second = step(scheduler)
    assert shares(second)[1] == (1, 32, 16, 1)
    assert second.chunks[1].pages[:2] == first.chunks[0].pages[:2]
    assert scheduler.cached_tokens(1) == 32
    assert scheduler.cached_tokens(0) == 0
    assert scheduler.stats().reused_tokens == 32


def test_generated_tokens_are_shared_after_the_end_too():
    scheduler = make()
    scheduler.add(0, prompt(10), 30)
    tokens = prompt(10)
    for token in range(10, 40):
        step(scheduler, token)
        tokens.append(token)
    scheduler.finish(0)
    scheduler.add(1, [*tokens, 5], 2)
    assert shares(step(scheduler)) == [(1, 32, 9, 1)]


@pytest.mark.parametrize(("reuse", "namespace"), [(False, 0), (True, 1)])
def test_nothing_is_shared_when_switched_off_or_across_namespaces(reuse, namespace):
    scheduler = make(reuse_prefix=reuse)
    scheduler.add(0, prompt(40), 2)
    step(scheduler)
    scheduler.add(1, prompt(40), 2, namespace)
    assert (1, 0, 40, 1) in shares(step(scheduler))
    assert scheduler.stats().reused_tokens == 0


def test_of_equal_prompts_in_flight_the_one_behind_catches_up():
    scheduler = make(max_rows=48, max_sequences=4, chunk_size=32)
    for sequence in (0, 1):
        scheduler.add(sequence, prompt(100), 2)
    assert shares(step(scheduler)) == [(0, 0, 32, 0), (1, 0, 16, 0)]
    assert shares(step(scheduler)) == [(0, 32, 32, 0), (1, 32, 16, 0)]
    used = scheduler.stats().pages_used
    assert used == 4  # its copy of the third page gave way to the shared one


def test_equal_prompts_of_one_step_end_up_with_the_same_pages():
    scheduler = make()
    for sequence in (0, 1):
        scheduler.add(sequence, prompt(20), 5)
    first, second = step(scheduler).chunks
    assert first.pages[0] != second.pages[0]
    first, second = step(scheduler).chunks
    assert first.pages[0] == second.pages[0]
    assert first.pages[1] != second.pages[1]


def test_room_is_reckoned_without_the_pages_that_are_shared_anyway():
    scheduler = make(n_pages=7)
    scheduler.add(0, prompt(64), 5)
    step(scheduler)
    scheduler.add(1, prompt(70), 5)
    assert shares(step(scheduler)) == [(0, 64, 1, 1), (1, 64, 6, 1)]


def test_stored_pages_nobody_uses_take_room_when_they_are_reused():
    scheduler = make(n_pages=7)
    scheduler.add(0, prompt(64), 1)
    step(scheduler)  # done: its four pages are stored
    scheduler.add(1, prompt(20, salt=1), 20)
    step(scheduler)
    scheduler.add(2, prompt(70), 5)
    assert scheduler.stats().pages_evictable == 4
    step(scheduler)
    assert (scheduler.stats().running, scheduler.stats().waiting) == (1, 1)


def test_nobody_starts_who_would_soon_be_paused():
    scheduler = make(n_pages=4)
    scheduler.add(0, prompt(30), 30)
    scheduler.add(1, prompt(17, salt=1), 20)
    for _ in range(30):
        step(scheduler)
        assert scheduler.stats().paused == 0
    assert shares(step(scheduler)) == [(1, 0, 17, 1)]


def test_the_rows_of_drafts_are_not_given_to_prompts_as_well():
    scheduler = make(max_rows=9, max_sequences=2)
    scheduler.add(0, prompt(4), 30)
    step(scheduler)
    scheduler.add(1, prompt(40, salt=1), 5)
    drafts = {0: [5] * 10}
    assert shares(step(scheduler, 9, drafts)) == [(0, 4, 5, 5), (1, 0, 4, 0)]


def pressed() -> Scheduler:
    """A pool in which sequence 0 soon needs a page that the newer sequence 1 holds."""
    scheduler = make(n_pages=4)
    scheduler.add(0, prompt(20), 20)
    scheduler.add(1, prompt(10, salt=1), 20)
    return scheduler


def test_the_newest_is_paused_when_pages_run_out_and_resumes_where_it_was():
    scheduler = pressed()
    known = 10
    for _ in range(13):
        known += sum(chunk.sequence == 1 for chunk in step(scheduler).chunks)
    assert known == 23
    assert shares(step(scheduler)) == [(0, 32, 1, 1)]
    assert scheduler.stats().paused == 1
    for position in range(33, 39):
        assert shares(step(scheduler)) == [(0, position, 1, 1)]
    # Sequence 0 took only the page that was half full: the full one still holds 16 tokens.
    assert shares(step(scheduler)) == [(1, 16, 7, 1)]  # computed again, not sampled again
    assert scheduler.cached_tokens(1) == 0  # they were its own
    assert shares(step(scheduler)) == [(1, 23, 1, 1)]


def test_the_paused_resume_before_anyone_starts():
    scheduler = pressed()
    for _ in range(14):
        step(scheduler)
    scheduler.add(2, [1], 1)
    assert (scheduler.stats().paused, scheduler.stats().waiting) == (1, 1)
    order = [chunk.sequence for _ in range(20) for chunk in step(scheduler).chunks]
    assert list(dict.fromkeys(order)) == [0, 1, 2]


def test_drafts_pause_nobody():
    scheduler = make(n_pages=5)
    scheduler.add(0, prompt(20), 20)
    scheduler.add(1, prompt(20, salt=1), 20)
    step(scheduler)
    plan = step(scheduler, token=9, drafts={0: [5] * 19, 1: [5] * 19})
    assert shares(plan) == [(0, 20, 19, 19), (1, 20, 12, 12)]
    assert scheduler.stats().paused == 0


def test_small_requests_do_not_starve_a_large_one():
    """A stream of small ones could keep the pages busy for ever; the large one has its turn."""
    scheduler = make(n_pages=8, max_sequences=4)
    for sequence in range(4):
        scheduler.add(sequence, prompt(20, sequence), 12)
    scheduler.add(100, prompt(100, salt=100), 20)
    order = []
    for sequence in range(200, 260):
        scheduler.add(sequence, prompt(20, sequence), 12)
        order += [chunk.sequence for chunk in step(scheduler).chunks]
    started = list(dict.fromkeys(order))
    assert started[:6] == [0, 1, 2, 3, 100, 200]
    assert started == sorted(started)


def test_everything_ends_under_pressure_with_the_answers_it_has_alone():
    requests = {i: Request((*range(i % 3), *[i % 2] * 19), 25, i % 2) for i in range(30)}
    scheduler, device = make(n_pages=5, max_sequences=5, max_rows=16), PagedDevice(5)
    tokens = {i: list(request.prompt) for i, request in requests.items()}
    for i, request in requests.items():
        scheduler.add(i, request.prompt, request.max_tokens, request.namespace)
    pauses = 0
    while (plan := scheduler.plan()).chunks:
        new = device.run(plan, tokens, {i: r.namespace for i, r in requests.items()})
        scheduler.commit(plan, new)
        scheduler.check()
        for i, accepted in new.items():
            tokens[i] += accepted
        pauses += scheduler.stats().paused
    assert pauses > 0
    for i, request in requests.items():
        assert tokens[i][len(request.prompt) :] == request.answer()


@pytest.mark.parametrize("stage", ["waiting", "mid-prompt", "planned", "running", "paused"])
def test_cancel_frees_everything_in_any_stage(stage):
    scheduler = make(n_pages=4, reuse_prefix=False, chunk_size=15)
    scheduler.add(0, prompt(20), 30)
    scheduler.add(1, prompt(10, salt=1), 20)
    steps = {"waiting": 0, "mid-prompt": 1, "planned": 1, "running": 2, "paused": 15}[stage]
    for _ in range(steps):
        step(scheduler)
    assert (scheduler.stats().paused == 1) == (stage == "paused")
    pending = scheduler.plan() if stage == "planned" else None
    for sequence in (0, 1):
        assert scheduler.cancel(sequence)
        scheduler.check()
    assert scheduler.stats().pages_free == 4
    if pending:
        scheduler.commit(pending, {0: [1], 1: [1]})
    assert scheduler.plan() == Plan(())
    assert not scheduler.cancel(0)


def test_an_id_used_again_between_plan_and_commit_is_another_sequence():
    scheduler = make()
    scheduler.add(0, [1, 2, 3], 5)
    plan = scheduler.plan()
    scheduler.cancel(0)
    scheduler.add(0, [4, 5], 5)
    scheduler.commit(plan, {0: [9]})
    scheduler.check()
    assert scheduler.plan().chunks[0].tokens == (4, 5)


def test_a_plan_that_was_not_committed_is_superseded():
    scheduler = make()
    scheduler.add(0, [1, 2, 3], 5)
    lost = scheduler.plan()
    again = scheduler.plan()
    assert again == lost
    with pytest.raises(EngineError, match="only the latest plan"):
        scheduler.commit(lost, {0: [4]})
    scheduler.commit(again, {0: [4]})
    with pytest.raises(EngineError, match="only the latest plan"):
        scheduler.commit(again, {0: [4]})


def test_a_refused_commit_changes_nothing():
    scheduler = make()
    scheduler.add(0, [1, 2], 5)
    scheduler.add(1, [3], 5)
    plan = scheduler.plan()
    with pytest.raises(EngineError, match="sequence 1 got 2 new tokens"):
        scheduler.commit(plan, {0: [7], 1: [7, 7]})
    scheduler.check()
    scheduler.commit(plan, {0: [7], 1: [7]})


def test_the_same_calls_give_the_same_plans():
    def history() -> list[Plan]:
        scheduler = make(n_pages=6, max_sequences=3, max_rows=24)
        for sequence in range(6):
            scheduler.add(sequence, prompt(10 * sequence + 5, sequence % 2), 12)
        return [step(scheduler, drafts={0: [2], 3: [1, 2]}) for _ in range(40)]

    assert history() == history()


def test_add_refuses_what_cannot_run():
    scheduler = make(n_pages=4)
    scheduler.add(0, [1], 1)
    with pytest.raises(EngineError, match="sequence 0 exists already"):
        scheduler.add(0, [1], 1)
    with pytest.raises(PromptTooLongError, match="need 5 KV pages"):
        scheduler.add(1, prompt(60), 6)
    with pytest.raises(PromptTooLongError, match="exceed the context of 1000"):
        scheduler.add(1, prompt(999), 2)
    with pytest.raises(RequestError, match="no tokens"):
        scheduler.add(1, [], 2)


@pytest.mark.parametrize("call", ["finish", "cached_tokens"])
def test_unknown_sequences_are_named(call):
    with pytest.raises(EngineError, match="sequence 4 is unknown"):
        getattr(make(), call)(4)
