"""Sampling in NumPy, exactly by the definition that the compiled kernels follow: the same logits, the same token.

This module is the reference backend's `Sampling`. A token weighs ``floor(2**40 * exp2(power))``; filters work on these
integers, so no order of summation matters. Of the tokens that are left, the first of a race is drawn: each waits for
an exponentially distributed time with noise of its own (Gumbel's trick; see ``kernels.sampling``). Knows nothing of
requests. Invariant: each step is float32 and none is fused, as in the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import Floats, Peak, Sampling, Words
from miaotui.backends.sampling import PLAIN, Distribution, noise_key
from miaotui.kernels.sampling.constants import EXP2, LOG2, MIXERS, ROOT_HALF_BITS, SPREAD, WAIT
from miaotui.kernels.sampling.draw_fields import WEIGHT_BITS

F = np.float32
Integers = NDArray[np.int64]


class ReferenceChoice:
    """The `TokenChoice` of reference passes: plain attributes."""

    def __init__(self, shape: Distribution | None, seed: int, ends: Sequence[int]) -> None:
        self.shape, self.seed, self.ends = shape, seed, frozenset(ends)
        self.words: Words | None = None
        self.is_left = False

    def allow(self, words: Words | None) -> None:
        """Choose among these tokens at the next position; None: among all."""
        self.words, self.is_left = words, False

    def leave(self) -> None:
        """Choose nothing in the next pass and leave its logits as they are."""
        self.words, self.is_left = None, True


def choice(shape: Distribution | None, seed: int, ends: Sequence[int]) -> ReferenceChoice:
    """Return a way to choose a sequence's tokens in the pass; ``shape`` None: the greatest logit."""
    return ReferenceChoice(shape, seed, ends)


def choose(row: Floats, position: int, chosen_by: ReferenceChoice | None, how: Sampling | None = None) -> Peak:
    """Return the token chosen for ``position`` from its logits, and the greatest logit; masked logits become -inf.

    ``how`` restricts and draws (None: this module).
    """
    if chosen_by is not None and not chosen_by.is_left and chosen_by.words is not None:
        (restrict if how is None else how.restrict)(row, chosen_by.words.view(np.uint32))
    token = int(row.argmax())  # the first of equals; the first that is not a number
    peak = float(row[token])
    if chosen_by is not None and chosen_by.shape is not None and not chosen_by.is_left and np.isfinite(peak):
        key = noise_key(chosen_by.seed, position)
        token = (draw if how is None else how.draw)(row, peak, chosen_by.shape, key)
    return token, peak


def draw(row: Floats, peak: float, shape: Distribution, key: int) -> int:
    """Return the token drawn under ``key`` from the logits ``row [vocab]``, whose greatest is ``peak``."""
    powers = _powers(row, peak, shape.scale)
    left = _filtered(row, powers, shape)
    scores = _ranked(powers[left] - _log2_waits(_token_noise(key, left)))
    return int(left[scores.argmax()])  # ascending ids: of equals the lowest


def best(row: Floats, n: int) -> list[int]:
    """Return the ``n`` tokens of the highest logits above -inf, best first; of equals the lower id first."""
    return [int(token) for token in _by_logit(row)[:n] if row[token] > -np.inf]


def restrict(row: Floats, words: NDArray[np.uint32]) -> None:
    """Set the logits of tokens whose bit is 0 in ``words [ceil(vocab / 32)]`` to -inf."""
    bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")[: row.size]
    row[bits == 0] = -np.inf


def log_total(row: Floats, peak: float) -> float:
    """Return the natural logarithm of ``sum(exp(row - peak))``, right to about 1e-6."""
    return math.log(int(_weights(_powers(row, peak, PLAIN.scale)).sum()) / 2**WEIGHT_BITS)


def _filtered(row: Floats, powers: Floats, shape: Distribution) -> Integers:
    """Return the tokens that top-k, top-p and min-p leave, each by what the one before has left; ascending."""
    weights = _weights(powers)
    left: Integers = np.arange(row.size)
    if shape.top_k or shape.top_p < 1.0:
        left = _by_logit(row)[: shape.top_k or row.size]
        reached = np.cumsum(weights[left])
        total = int(reached[-1])
        budget = min(math.ceil(shape.top_p * float(total)), total)
        left = np.sort(left[: int(np.searchsorted(reached, budget)) + 1])
    kept: Integers = left[weights[left] >= shape.least]
    return kept


def _by_logit(row: Floats) -> Integers:
    """Return all tokens, the highest logit first; of equals the lower id."""
    order: Integers = np.argsort(-row, kind="stable")
    return order


def _powers(row: Floats, peak: float, scale: float) -> Floats:
    """Log2 of each token's probability beside that of the best one."""
    with np.errstate(over="ignore"):
        powers: Floats = (row - F(peak)) * F(scale)
    return powers


def _weights(powers: Floats) -> Integers:
    """Return ``floor(2**40 * exp2(powers))``."""
    y = np.maximum(powers, F(-WEIGHT_BITS - 2))
    whole = np.rint(y)
    fraction, exp2 = y - whole, np.zeros_like(y)
    for coefficient in reversed(EXP2):
        exp2 = (exp2 + F(coefficient)) * fraction
    mantissas = ((exp2 + F(1)) * F(1 << 24)).astype(np.int64)
    weights: Integers = (mantissas << (WEIGHT_BITS - 24)) >> (-whole).astype(np.int64)
    return weights


def _token_noise(key: int, tokens: Integers) -> NDArray[np.int32]:
    """Return 31 bits for each of ``tokens`` under a key of 64 bits."""
    low, high = np.uint32(key & 0xFFFFFFFF), np.uint32(key >> 32)
    spread, (first, second) = np.uint32(SPREAD), (np.uint32(each) for each in MIXERS)
    x = tokens.astype(np.uint32) * spread ^ low
    x = (x ^ x >> np.uint32(16)) * first
    x = (x ^ x >> np.uint32(15)) * second
    x = ((x ^ x >> np.uint32(16)) + high) * spread
    noise: NDArray[np.int32] = ((x ^ x >> np.uint32(15)) >> np.uint32(1)).astype(np.int32)
    return noise


def _log2_waits(noise: NDArray[np.int32]) -> Floats:
    """Return ``log2(-log2(1 - v))`` for ``v = (noise + 1/2) / 2**31``."""
    mantissas, exponents = np.frexp((np.int32((1 << 31) - 1) - noise).astype(F) + F(0.5))  # of (1 - v) * 2**31
    is_small = noise < 1 << 30
    x = np.where(is_small, (noise.astype(F) + F(0.5)) * F(2.0**-31), F(1) - mantissas)
    waits = np.where(is_small, F(0), (31 - exponents).astype(F)) + x * _estrin(WAIT, x)
    mantissas, exponents = np.frexp(waits)
    is_above = mantissas >= np.uint32(ROOT_HALF_BITS).view(F)
    m = np.where(is_above, mantissas, mantissas * F(2)) - F(1)
    result: Floats = np.where(is_above, exponents, exponents - 1).astype(F) + m * _estrin(LOG2, m)
    return result


def _estrin(coefficients: Sequence[float], x: Floats) -> Floats:
    """Return a polynomial of degree 7, the lowest coefficient first, in Estrin's order of summation."""
    c, x2 = [F(each) for each in coefficients], x * x
    low = (c[1] * x + c[0]) + (c[3] * x + c[2]) * x2
    high = (c[5] * x + c[4]) + (c[7] * x + c[6]) * x2
    result: Floats = low + high * (x2 * x2)
    return result


def _ranked(scores: Floats) -> NDArray[np.int32]:
    """Integers in the order of float32 ``scores``, in which -0.0 comes before 0.0."""
    bits = np.ascontiguousarray(scores).view(np.int32)
    ranks: NDArray[np.int32] = bits ^ ((bits >> 31) & np.int32((1 << 31) - 1))
    return ranks
