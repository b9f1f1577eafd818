"""Which of the tokens that a pass proposes stay: the others are masked again.

One rule of three, each after Fast-dLLM (Wu et al., "Fast-dLLM", 2025, section 3.3) or LLaDA (Nie et al., 2025,
algorithm 5). Knows confidences, neither tokens nor models. Invariant: at least the most confident token stays, so that
a block of n tokens takes at most n passes; of equals the first one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import RequestError

Confidences = NDArray[np.float64]
Bools = NDArray[np.bool_]
THRESHOLD = 0.9  # Fast-dLLM's


@dataclass(frozen=True)
class Acceptance:
    """Rule of a request; exactly one of the three, ``threshold`` 0.9 unless another is given.

    ``threshold``: tokens at least that confident. ``factor``: the n most confident, for the largest n with
    ``(n + 1) * (1 - c_n) < factor``, c_n the least of their confidences. ``count``: that many, the most confident ones
    (LLaDA's remasking of low confidence). Raises `RequestError` for values out of range.
    """

    threshold: float | None = None
    factor: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("threshold", "factor", "count") if getattr(self, name) is not None]
        if len(given) > 1:
            raise RequestError(f"{given[0]} and {given[1]}: tokens are accepted by one rule; leave one of them out")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise RequestError(f"threshold must be over 0 and at most 1, not {self.threshold!r}")
        if self.factor is not None and not self.factor > 0:
            raise RequestError(f"factor must be over 0, not {self.factor!r}")
        if self.count is not None and self.count < 1:
            raise RequestError(f"count must be at least 1, not {self.count!r}")

    def accepted(self, confidences: Confidences) -> Bools:
        """Return which of the proposed tokens stay, ``[m]`` for their confidences ``[m]``, m at least 1."""
        order = np.argsort(-confidences, kind="stable")
        ranked = confidences[order]
        if self.count is not None:
            number = self.count
        elif self.factor is not None:
            fits = (np.arange(1, len(ranked) + 1) + 1) * (1 - ranked) < self.factor
            number = int(np.flatnonzero(fits)[-1]) + 1 if fits.any() else 1
        else:
            number = int((ranked >= (THRESHOLD if self.threshold is None else self.threshold)).sum())
        stays = np.zeros(len(confidences), bool)
        stays[order[: max(number, 1)]] = True
        return stays
