"""Whether the team or one thread runs a pass: the faster way wins, trials are few."""

from __future__ import annotations

import random

import pytest

from miaotui.kernels.pace import CALM, SMALL_ROWS, Pace

TEAM_S, ALONE_S, DISTURBED_S = 0.010, 0.018, 0.050
KIND = (1, 1)


def share_alone(pace: Pace, passes: int, team_s: float, seed: int = 0) -> float:
    """Run passes on a simulated machine; the share of them that one thread ran."""
    noise, alone = random.Random(seed), 0
    for _ in range(passes):
        alone += pace.alone
        pace.note(KIND, (ALONE_S if pace.alone else team_s) * noise.uniform(1, 1.1))
    return alone / passes


def test_the_team_runs_on_a_quiet_machine() -> None:
    assert share_alone(Pace(), 4 * CALM, TEAM_S) < 0.03


def test_one_thread_runs_on_a_disturbed_machine() -> None:
    pace = Pace()
    share_alone(pace, 200, TEAM_S)
    assert share_alone(pace, 50, DISTURBED_S) > 0.5
    assert share_alone(pace, 2000, DISTURBED_S) > 0.85


def test_the_team_comes_back() -> None:
    pace = Pace()
    share_alone(pace, 200, TEAM_S)
    share_alone(pace, 500, DISTURBED_S)
    share_alone(pace, 150, TEAM_S)
    assert share_alone(pace, 2 * CALM, TEAM_S) < 0.05


def test_a_single_slow_pass_changes_nothing() -> None:
    pace = Pace()
    share_alone(pace, 60, TEAM_S)
    for _ in range(20):
        pace.note(KIND, 20 * TEAM_S)
        assert not pace.alone
        share_alone(pace, 3, TEAM_S)


@pytest.mark.parametrize("rows", [SMALL_ROWS + 1, 512])
def test_large_passes_are_not_judged(rows: int) -> None:
    pace = Pace()
    for _ in range(3 * CALM):
        pace.note((1, rows), 1.0)
    assert not pace.alone
