"""Sampling by an exponential race (the Gumbel-max trick): one token is drawn from many, each with noise of its own.

Each token gets a waiting time that is exponentially distributed with its probability as the rate. The token with the
shortest time is drawn, which happens with exactly that probability (the exponential race, or Gumbel's trick in
logarithms; Maddison, Tarlow and Minka, "A* Sampling", 2014, section 2). There is no sum over tokens, and a token's
noise depends on the draw's key and its own id alone. So two similar distributions mostly draw the same token with the
same key; this makes drafts of sampled text worth verifying. Cost: about 60 vector operations per logit for a score,
20 for the bound that spares most of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from miaotui.kernels.runtime.compiler import inline
from miaotui.kernels.sampling.constants import LOG2, MIXERS, ROOT_HALF_BITS, SPREAD, WAIT

_HALF = np.int32(1 << 30)
_TOP = np.int32((1 << 31) - 1)
_ONE = np.float32(1)
LOWEST_RANK = np.int32(-(1 << 31))
_STEP = np.float32(2.0**-31)
_LEAST_WAIT = np.float32(0.527)
_MIDDLE = np.float32(0.5)
_MANTISSA = np.int32(0x007FFFFF)
_ONE_BITS = np.int32(0x3F800000)
_ROOT_HALF_BITS = np.int32(ROOT_HALF_BITS)
_FIRST, _SECOND = MIXERS

# Summed in Estrin's order, whose chains are short.
_A = tuple(np.float32(c) for c in WAIT)
_A0, _A1, _A2, _A3, _A4, _A5, _A6, _A7 = _A
_B = tuple(np.float32(c) for c in LOG2)
_B0, _B1, _B2, _B3, _B4, _B5, _B6, _B7 = _B


@inline
def token_noise(low: Any, high: Any, token: Any) -> Any:
    """Return 31 random bits for ``token`` under the key of two halves (all uint32): a mixer with full avalanche.

    Two multiplications between shifts (the form of Appleby's MurmurHash3 finalizer, with constants of Wellons' search
    for the least bias), after and before a half of the key.
    """
    x = np.uint32(np.uint32(token * np.uint32(SPREAD)) ^ low)
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(_FIRST))
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(_SECOND))
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x + high)
    x = np.uint32(x * np.uint32(SPREAD))
    return np.int32(np.uint32(x ^ (x >> np.uint32(15))) >> np.uint32(1))


@inline
def log2_wait(noise: Any) -> Any:
    """Compute ``log2(-log2(1 - v))`` for ``v = (noise + 1/2) / 2**31`` in float32, without fused operations.

    Short waiting times decide, so they are as exact, relatively, as long ones.
    """
    small = noise < _HALF
    rest = np.float32(np.int32(_TOP - noise)) + _MIDDLE  # (1 - v) * 2**31
    bits = np.float32(rest).view(np.int32)
    octaves = np.float32(np.int32(np.int32(157) - np.int32(bits >> np.int32(23))))
    mantissa = np.int32((bits & _MANTISSA) | _ONE_BITS).view(np.float32)
    inside = (np.float32(noise) + _MIDDLE) * _STEP if small else _ONE - mantissa * _MIDDLE
    whole = np.float32(0) if small else octaves
    x = np.float32(inside)
    x2 = x * x
    a_low = (_A1 * x + _A0) + (_A3 * x + _A2) * x2
    a_high = (_A5 * x + _A4) + (_A7 * x + _A6) * x2
    wait = np.float32(whole + x * (a_low + a_high * (x2 * x2)))
    shifted = np.int32(np.float32(wait).view(np.int32) - _ROOT_HALF_BITS)
    exponent = np.float32(np.int32(shifted >> np.int32(23)))
    m = np.int32((shifted & _MANTISSA) + _ROOT_HALF_BITS).view(np.float32) - _ONE
    m2 = m * m
    b_low = (_B1 * m + _B0) + (_B3 * m + _B2) * m2
    b_high = (_B5 * m + _B4) + (_B7 * m + _B6) * m2
    return np.float32(exponent + m * (b_low + b_high * (m2 * m2)))


@inline
def most_score(power: Any, noise: Any) -> Any:
    """Return an upper bound of ``power - log2_wait(noise)``, for a fifth of the work: at most 2 octaves too high.

    ``-log2(1 - v)`` is at least ``v / ln 2``, and ``v`` at least its power of two; 0.527 is ``-log2(ln 2)`` less more
    than all rounding.
    """
    bits = np.float32(np.float32(noise) + _MIDDLE).view(np.int32)
    exponent = np.float32(np.int32(np.int32(bits >> np.int32(23)) - np.int32(127 + 31)))
    return power - exponent - _LEAST_WAIT


@inline
def rank(score: Any) -> Any:
    """Map a float32 to an int32 in the same order, because integers compare in vectors without extra work."""
    bits = np.float32(score).view(np.int32)
    return np.int32(bits ^ ((bits >> np.int32(31)) & _TOP))


@inline
def unrank(ranked: Any) -> Any:
    """Return the float32 of a `rank`."""
    return np.int32(ranked ^ ((ranked >> np.int32(31)) & _TOP)).view(np.float32)


@inline
def greatest(ranks: Any, size: Any) -> Any:
    """Return the greatest of the first ``size`` ranks; `LOWEST_RANK` if there are none."""
    most = LOWEST_RANK
    for j in range(size):
        most = max(most, ranks[j])
    return most
