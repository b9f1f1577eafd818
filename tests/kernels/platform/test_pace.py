"""When a team gives way to one thread, and when it comes back: times made up, no clock."""

from __future__ import annotations

from miaotui.kernels.runtime.thread_pool import CALM, KEEP, SMALL_ROWS, TRIAL, Pace

KIND = (1, 1)


def passes(pace: Pace, count: int, team_s: float, alone_s: float) -> list[bool]:
    """Run passes that take these times either way; whether each ran alone."""
    ran = []
    for _ in range(count):
        ran.append(pace.alone)
        pace.note(KIND, alone_s if pace.alone else team_s)
    return ran


def test_a_quiet_machine_keeps_the_team_and_seldom_tries_otherwise() -> None:
    ran = passes(Pace(), 4 * CALM, team_s=3.0, alone_s=5.0)
    assert not any(ran[:16])
    assert 0 < sum(ran) <= 5 * TRIAL


def test_a_team_that_becomes_slow_gives_way_within_a_few_passes() -> None:
    pace = Pace()
    passes(pace, 100, team_s=3.0, alone_s=5.0)
    ran = passes(pace, 200, team_s=20.0, alone_s=5.0)
    assert sum(ran[: 2 * TRIAL]) > 0
    assert sum(ran) > 150


def test_a_team_that_is_slow_from_the_start_gives_way_too() -> None:
    ran = passes(Pace(), 300, team_s=20.0, alone_s=5.0)
    assert sum(ran) > 200


def test_the_team_comes_back_when_the_machine_is_quiet_again() -> None:
    pace = Pace()
    passes(pace, 200, team_s=20.0, alone_s=5.0)
    ran = passes(pace, 2 * (KEEP + TRIAL), team_s=3.0, alone_s=5.0)
    assert not any(ran[-KEEP // 2 :])


def test_large_passes_decide_nothing() -> None:
    pace = Pace()
    for _ in range(10 * CALM):
        pace.note((1, 512), 100.0)
    assert not pace.alone


def test_the_turns_of_a_trial_are_no_change() -> None:
    pace, kept, ran = Pace(), list[bool](), list[bool]()
    for _ in range(4 * CALM):
        kept.append(pace.kept)
        ran.append(pace.alone)
        pace.note(KIND, 5.0 if pace.alone else 3.0)
    assert any(ran)
    assert not any(kept)


def test_a_trial_leaves_large_passes_to_the_team() -> None:
    pace = Pace()
    while not (pace.is_trying and pace.alone):
        pace.note(KIND, 5.0 if pace.alone else 3.0)
    assert pace.is_alone_for(1)
    assert not pace.is_alone_for(12)


def test_large_passes_bring_the_team_back() -> None:
    pace = Pace()
    passes(pace, 300, team_s=20.0, alone_s=5.0)
    while pace.is_trying:
        pace.note(KIND, 5.0 if pace.alone else 20.0)
    assert pace.is_alone_for(12)
    for _ in range(KEEP):
        pace.note((1, 12), 5.0)
    assert not pace.is_alone_for(12)


def alone_at_last() -> Pace:
    """One that keeps one thread, no trial running."""
    pace = Pace()
    passes(pace, 300, team_s=20.0, alone_s=5.0)
    while not pace.kept or pace.is_trying:
        passes(pace, 1, team_s=20.0, alone_s=5.0)
    return pace


def test_one_very_large_pass_brings_the_team_back() -> None:
    pace = alone_at_last()
    pace.note((1, KEEP * SMALL_ROWS), 5.0)
    assert not pace.alone


def test_after_a_rest_large_passes_have_the_team() -> None:
    pace = alone_at_last()
    assert pace.is_alone_for(12)
    pace.rested()
    assert not pace.is_alone_for(12)


def test_after_a_rest_the_team_is_tried_again_at_once() -> None:
    pace = alone_at_last()
    pace.rested()
    assert pace.is_trying
    assert passes(pace, 4 * TRIAL, team_s=3.0, alone_s=5.0)[-2 * TRIAL :] == [False] * 2 * TRIAL


def test_a_rest_changes_nothing_while_the_team_works() -> None:
    pace = Pace()
    passes(pace, 4, team_s=3.0, alone_s=5.0)
    pace.rested()
    assert not pace.is_trying
    assert not pace.alone
