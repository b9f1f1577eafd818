"""Rates by time: weights are the derivative that the bound needs; times cover their range evenly."""

from __future__ import annotations

import numpy as np
import pytest

from miaotui.dmlm.masks.schedule import FIRST_TIME, SCHEDULES, FixedRate, clipped_times, schedule_named
from miaotui.errors import RequestError
from miaotui.training.noise import Noise

BOUNDS = sorted(name for name, schedule in SCHEDULES.items() if schedule.is_bound)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_rates_are_shares_and_never_fall(name: str) -> None:
    rates = SCHEDULES[name].rate(np.linspace(FIRST_TIME, 1, 500))
    assert (rates >= 0).all()
    assert (rates <= 1).all()
    assert (np.diff(rates) >= 0).all()


@pytest.mark.parametrize("name", BOUNDS)
def test_weights_are_the_slope_over_the_rate(name: str) -> None:
    schedule, t, step = SCHEDULES[name], np.linspace(0.01, 0.99, 50), 1e-5
    slope = (schedule.rate(t + step) - schedule.rate(t - step)) / (2 * step)
    assert schedule.weight(t) == pytest.approx(slope / schedule.rate(t), rel=1e-5)


@pytest.mark.parametrize("name", BOUNDS)
def test_bound_does_not_depend_on_the_schedule(name: str) -> None:
    """A model's loss is a function of the rate; its weighted integral is that over the rate itself."""
    schedule = SCHEDULES[name]
    t = np.linspace(1e-6, 1, 400_001)
    rate = schedule.rate(t)
    integral = np.mean(schedule.weight(t) * rate * (2 + rate**2))
    assert integral == pytest.approx(2 + 1 / 3, rel=5e-3)


def test_times_of_consecutive_texts_are_even() -> None:
    times = np.sort(Noise(4, 2).times(np.arange(1000, 1128)))
    assert np.diff(times).max() < 3 / 128  # independent times leave gaps of about 5 / 128
    assert clipped_times(times).min() >= FIRST_TIME


def test_noise_is_uniform_and_streams_are_independent() -> None:
    one, other = (Noise(1).uniform(np.arange(200), 200, stream) for stream in (1, 2))
    assert np.histogram(one, 20, (0, 1))[0] == pytest.approx(2000, rel=0.12)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(one[:, 1:].ravel(), one[:, :-1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(one[1:].ravel(), one[:-1].ravel())[0, 1]) < 0.02


def test_unknown_schedules_and_rates_are_refused() -> None:
    with pytest.raises(RequestError, match="log-linear"):
        schedule_named("square")
    with pytest.raises(RequestError, match="rate"):
        FixedRate(0)
