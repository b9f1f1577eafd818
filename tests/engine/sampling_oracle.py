"""Sampling the slow way: one token at a time, with lists and Python integers.

The weight of a token and the time it waits are part of the definition (see `miaotui.kernels.sampling.weights`
and `miaotui.kernels.sampling.gumbel`), so they are computed here by the same float32 operations; everything
after them is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from miaotui.backends.sampling import noise_key
from miaotui.types import SamplingParams

F = np.float32
COEFFICIENTS = (
    0.00015453162942006833,
    0.0013390863364733119,
    0.009618082557286611,
    0.05550357114218973,
    0.24022650760568084,
    0.6931471880262287,
)

WAIT = tuple(
    map(
        F,
        (
            1.442694902420044,
            0.7213939428329468,
            0.4789845943450928,
            0.3902158737182617,
            0.06976592540740967,
            1.0886409282684326,
            -1.4946882724761963,
            1.6715266704559326,
        ),
    )
)
LOG2 = tuple(
    map(
        F,
        (
            1.4426950216293335,
            -0.7213529348373413,
            0.48091670870780945,
            -0.3602251708507538,
            0.2872888743877411,
            -0.24927182495594025,
            0.23265257477760315,
            -0.14275974035263062,
        ),
    )
)


def weights(logits: np.ndarray, temperature: float) -> list[int]:
    """``floor(2**40 * exp((logit - best) / temperature))``."""
    scale = F(min(max(math.log2(math.e) / temperature, 1e-30), 1e30))
    with np.errstate(over="ignore"):
        power = np.maximum((logits - logits.max()) * scale, F(-42))
    whole = np.rint(power)
    fraction = power - whole
    exp2 = np.zeros_like(power)
    for coefficient in COEFFICIENTS:
        exp2 = exp2 * fraction + F(coefficient)
    exp2 = exp2 * fraction + F(1)
    return [int(m * F(2**24)) << 16 >> -int(n) for m, n in zip(exp2, whole, strict=True)]


def token_noise(key: int, tokens: int) -> np.ndarray:
    """31 bits for each token, with Python's integers."""
    noise, word = [], 2**32
    for token in range(tokens):
        x = token * 0x9E3779B9 % word ^ key % word
        x ^= x >> 16
        x = x * 0x7FEB352D % word
        x ^= x >> 15
        x = x * 0x846CA68B % word
        x ^= x >> 16
        x = (x + (key >> 32)) % word * 0x9E3779B9 % word
        noise.append((x ^ x >> 15) >> 1)
    return np.array(noise, np.int64)


def log2_waits(noise: np.ndarray) -> np.ndarray:
    """``log2(-log2(1 - v))`` for ``v = (noise + 1/2) / 2**31``."""
    small = noise < 2**30
    rest = (2**31 - 1 - noise).astype(F) + F(0.5)
    mantissa, exponent = np.frexp(rest)  # in [1/2, 1)
    x = np.where(small, (noise.astype(F) + F(0.5)) * F(2**-31), F(1) - mantissa)
    whole = np.where(small, F(0), (31 - exponent).astype(F))
    wait = whole + x * _estrin(WAIT, x)
    mantissa, exponent = np.frexp(wait)
    above = mantissa >= np.uint32(0x3F3504F3).view(F)
    m = np.where(above, mantissa, mantissa * F(2)) - F(1)
    whole = np.where(above, exponent, exponent - 1).astype(F)
    return whole + m * _estrin(LOG2, m)


def _estrin(c: Sequence[F], x: np.ndarray) -> np.ndarray:
    x2 = x * x
    low = (c[1] * x + c[0]) + (c[3] * x + c[2]) * x2
    high = (c[5] * x + c[4]) + (c[7] * x + c[6]) * x2
    return low + high * (x2 * x2)


def edited(
    logits: np.ndarray, params: SamplingParams, prompt: Sequence[int], answer: Sequence[int], ends: Sequence[int]
) -> np.ndarray:
    """The logits after min_tokens, bias and penalties."""
    edited = []
    for token, logit in enumerate(logits.tolist()):
        value = logit
        if len(answer) < params.min_tokens and token in ends:
            value = -math.inf
        value = float(F(value + params.logit_bias.get(token, 0.0)))
        if token in prompt or token in answer:
            value = value / params.repetition_penalty if value > 0 else value * params.repetition_penalty
        value -= params.frequency_penalty * answer.count(token)
        value -= params.presence_penalty * (token in answer)
        edited.append(value)
    return np.array(edited, F)


def kept(logits: np.ndarray, params: SamplingParams) -> dict[int, int]:
    """Token id -> weight of the tokens that may be drawn."""
    mass = dict(enumerate(weights(logits, params.temperature)))
    ranked = sorted((t for t in mass if logits[t] > -math.inf), key=lambda t: (-logits[t], t))
    if params.top_k:
        ranked = ranked[: params.top_k]
    if params.top_p < 1:
        budget = math.ceil(params.top_p * float(sum(mass[t] for t in ranked)))
        short, ranked = ranked, []
        while short and sum(mass[t] for t in ranked) < budget:
            ranked.append(short.pop(0))
    return {t: mass[t] for t in sorted(ranked) if mass[t] >= params.min_p * 2**40}


def pick(logits: np.ndarray, params: SamplingParams, position: int) -> int:
    """The token drawn from edited logits."""
    if params.temperature == 0:
        return min(range(len(logits)), key=lambda t: (-logits[t], t))
    mass = kept(logits, params)
    scale = F(min(max(math.log2(math.e) / params.temperature, 1e-30), 1e30))
    with np.errstate(over="ignore"):
        power = (logits - logits.max()) * scale
    waits = log2_waits(token_noise(noise_key(params.seed, position), len(logits)))
    scores = power - waits
    return min(mass, key=lambda t: (-scores[t], t))
