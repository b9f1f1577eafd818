"""Rotary position encoding as plain values, and its frequencies.

Does not know layers, weights or files. Invariant: an existing `RopeConfig` has been checked. Follows RoFormer (Su et
al., 2021), YaRN (Peng et al., 2023) and Llama 3's frequency smoothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.model.reading.checks import MAX_FACTOR, require, require_positive

MAX_HEAD_DIM = 1024
MAX_CONTEXT = 1 << 27  # tokens
NEVER = 1.0000000150474662e30  # 1e30 in float32: divides the frequency of a pair that does not turn

RopeScaling = Literal["none", "linear", "llama3", "yarn"]


def longrope_magnitude(stretch: float, original_context: int) -> float:
    """Return LongRoPE's factor of cosine and sine for ``stretch`` times the original context in tokens.

    Source: LongRoPE (Ding et al., 2024), as Phi-3 uses it.
    """
    if stretch <= 1 or original_context < 2:
        return 1.0
    return math.sqrt(1 + math.log(stretch) / math.log(original_context))


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position encoding of one kind of layer.

    The first ``dim`` values of each head are rotated, in the pairs ``(i, i + dim/2)``, by the angle
    ``position * inverse_frequencies()[i]``; cosine and sine are multiplied by `magnitude`.
    Raises `ModelFormatError` for values out of range.
    """

    theta: float
    dim: int
    scaling: RopeScaling = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    original_context: int = 0  # llama3, yarn: tokens the model was first trained with
    beta_fast: float = 32.0  # yarn: pairs with more turns than this are kept
    beta_slow: float = 1.0  # yarn: pairs with fewer turns than this are interpolated
    truncate: bool = True  # yarn: the ramp's ends are rounded outwards to whole pairs
    attention_factor: float | None = None  # None: as the scaling defines it
    freq_factors: tuple[float, ...] | None = None  # inverse frequencies are divided by these first

    def __post_init__(self) -> None:
        even = self.dim >= 2 and self.dim % 2 == 0 and self.dim <= MAX_HEAD_DIM
        require(even, "rotated dimensions", f"even and in [2, {MAX_HEAD_DIM}]", self.dim)
        finite = math.isfinite(self.theta) and self.theta > 1
        require(finite, "rope theta", "finite and > 1", self.theta)
        require(1 <= self.factor <= MAX_FACTOR, "rope factor", "in [1, 1e6]", self.factor)
        if self.attention_factor is not None:
            require_positive("rope attention factor", self.attention_factor)
        if self.freq_factors is not None:
            count = len(self.freq_factors)
            require(count == self.dim // 2, "rope factors", f"{self.dim // 2} numbers", count)
            for value in self.freq_factors:
                require_positive("every rope factor", value, most=NEVER)
        if self.scaling in ("llama3", "yarn"):
            known = 1 <= self.original_context <= MAX_CONTEXT
            require(known, "original context", "positive", self.original_context)
            low, high = self.low_freq_factor, self.high_freq_factor
            require(0 < low < high <= MAX_FACTOR, "llama3 factors", "0 < low < high", (low, high))
            slow, fast = self.beta_slow, self.beta_fast
            require(0 < slow <= fast <= MAX_FACTOR, "yarn betas", "0 < slow <= fast", (slow, fast))

    def inverse_frequencies(self) -> NDArray[np.float64]:
        """Return the radians per position of each rotated pair, float64 ``[dim/2]``."""
        exponents = np.arange(self.dim // 2, dtype=np.float64) * 2 / self.dim
        plain: NDArray[np.float64] = np.power(self.theta, -exponents)
        if self.freq_factors is not None:
            plain = plain / np.asarray(self.freq_factors, dtype=np.float64)
        if self.scaling == "linear":
            return plain / self.factor
        if self.scaling == "llama3":
            return self._smoothed(plain)
        if self.scaling == "yarn":
            return self._by_parts(plain)
        return plain

    def magnitude(self) -> float:
        """Return the factor of cosine and sine: YaRN's attention factor, else 1."""
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0 if self.scaling == "yarn" else 1.0

    def _smoothed(self, plain: NDArray[np.float64]) -> NDArray[np.float64]:
        """Smooth as Llama 3 does: keep fast pairs, divide slow ones by ``factor``, blend between.

        Turns are counted over the original context.
        """
        turns = self.original_context * plain / (2 * math.pi)
        keep = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        keep = np.clip(keep, 0.0, 1.0)
        return plain * (keep + (1.0 - keep) / self.factor)

    def _by_parts(self, plain: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interpolate as YaRN does: keep fast pairs, interpolate slow ones, a ramp over indices between."""
        first, last = self._pair_turning(self.beta_fast), self._pair_turning(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0.0), min(last, self.dim - 1.0)
        width = last - first if last != first else 0.001  # a step instead of a division by zero
        slow = np.clip((np.arange(self.dim // 2, dtype=np.float64) - first) / width, 0.0, 1.0)
        return plain * ((1.0 - slow) + slow / self.factor)

    def _pair_turning(self, turns: float) -> float:
        """Return the fractional index of the pair that makes ``turns`` turns over the original context."""
        ratio = self.original_context / (turns * 2 * math.pi)
        return self.dim * math.log(ratio) / (2 * math.log(self.theta))


class LongContext(NamedTuple):
    """Another encoding of a model, for texts longer than its usual context: LongRoPE's long factors."""

    rope: RopeConfig
    context_length: int  # tokens
