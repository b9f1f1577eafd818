"""Rates of masking: the share of a text that is masked at a time, and the weight of its loss there.

At time t in (0, 1] a token is masked with chance ``1 - alpha(t)``. The weight ``-alpha'(t) / (1 - alpha(t))`` makes the
loss a bound of the negative log-likelihood (the ELBO of MDLM: Sahoo et al., "Simple and Effective Masked Diffusion
Language Models", 2024, equation 10), whatever the schedule. Knows no tokens. Invariant: ``rate`` rises with time, and
the integral of ``rate * weight`` over all times is ``rate(1)`` for schedules that give a bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import RequestError

Floats = NDArray[np.float64]

FIRST_TIME = 1e-3  # times begin here, as MDLM's do: weights are finite
LEFT = 1e-3  # share that stays at time 1 in MDLM's own code
BERT_RATE = 0.15  # Devlin et al., 2019, section 3.1
SIGMA_MAX = 10.0


class Schedule(Protocol):
    """Rates and weights by time; both take and give float64 ``[B]``."""

    @property
    def name(self) -> str:
        """Return its command-line name."""
        ...

    @property
    def is_bound(self) -> bool:
        """Return whether the weighted loss bounds the negative log-likelihood."""
        ...

    def rate(self, t: Floats) -> Floats:
        """Return the chance of each token to be masked at times ``t`` in (0, 1]."""
        ...

    def weight(self, t: Floats) -> Floats:
        """Return the factor of the summed loss of the masked tokens."""
        ...


@dataclass(frozen=True)
class FixedRate:
    """One rate at all times, 15% in BERT; the weight makes the loss the mean of the masked tokens' losses."""

    share: float = BERT_RATE
    name: str = "bert"
    is_bound: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise RequestError(f"the rate of masks must be over 0 and at most 1, not {self.share!r}")

    def rate(self, t: Floats) -> Floats:
        """Return the rate, see `Schedule.rate`."""
        return np.full_like(t, self.share)

    def weight(self, t: Floats) -> Floats:
        """Return 1 over the rate."""
        return np.full_like(t, 1 / self.share)


@dataclass(frozen=True)
class LogLinearRates:
    """MDLM's log-linear noise, and LLaDA's forward process: the rate is the time."""

    name: str = "log-linear"
    is_bound: bool = True

    def rate(self, t: Floats) -> Floats:
        """Return ``(1 - LEFT) * t``."""
        return (1 - LEFT) * t

    def weight(self, t: Floats) -> Floats:
        """Return ``1 / t``."""
        return 1 / t


@dataclass(frozen=True)
class LinearRates:
    """MDLM's linear noise: its exponent ``-log(alpha)`` rises in proportion to time, so most texts are masked much."""

    name: str = "linear"
    is_bound: bool = True

    def rate(self, t: Floats) -> Floats:
        """Return ``1 - exp(-10 t)``."""
        return -np.expm1(-SIGMA_MAX * t)

    def weight(self, t: Floats) -> Floats:
        """Return ``10 / (exp(10 t) - 1)``."""
        return SIGMA_MAX / np.expm1(SIGMA_MAX * t)


@dataclass(frozen=True)
class CosineRates:
    """MDLM's cosine noise, after MaskGIT's: little is masked for long."""

    name: str = "cosine"
    is_bound: bool = True

    def rate(self, t: Floats) -> Floats:
        """Return ``(1 - LEFT) * (1 - cos(pi t / 2))``."""
        return (1 - LEFT) * 2 * np.sin(np.pi / 4 * t) ** 2

    def weight(self, t: Floats) -> Floats:
        """Return ``(pi / 2) * sin(pi t / 2) / (1 - cos(pi t / 2))``."""
        return np.pi / 2 / np.tan(np.pi / 4 * t)


@dataclass(frozen=True)
class ClippedRates:
    """Rates between two ends, which vary less in their gradients (Arriola et al., BD3-LM, 2025, section 5.3)."""

    low: float = 0.3
    high: float = 0.8
    name: str = "clipped"
    is_bound: bool = False  # times outside of the ends are never seen

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise RequestError(f"rates must be 0 <= low < high <= 1, not {self.low!r} and {self.high!r}")

    def rate(self, t: Floats) -> Floats:
        """Return ``low + (high - low) * t``."""
        return self.low + (self.high - self.low) * t

    def weight(self, t: Floats) -> Floats:
        """Return 1 over the rate."""
        return 1 / self.rate(t)


SCHEDULES: Mapping[str, Schedule] = {
    schedule.name: schedule
    for schedule in (LogLinearRates(), LinearRates(), CosineRates(), ClippedRates(), FixedRate())
}


def schedule_named(name: str) -> Schedule:
    """Return a schedule of `SCHEDULES`. Raises `RequestError`."""
    if name not in SCHEDULES:
        raise RequestError(f"no schedule of masks is called {name!r}: choose one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name]


def clipped_times(times: Floats) -> Floats:
    """Move times of [0, 1) into [`FIRST_TIME`, 1)."""
    return FIRST_TIME + (1 - FIRST_TIME) * times
