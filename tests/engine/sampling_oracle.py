"""Sampling the slow way: one token at a time, with lists and Python integers.

The weight of a token is part of the definition (see `miaotui.kernels.weights`), so it is computed
here by the same float32 operations; everything after it is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from miaotui.engine.noise import uniform
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


def edited(
    logits: np.ndarray,
    params: SamplingParams,
    prompt: Sequence[int],
    answer: Sequence[int],
    ends: Sequence[int],
) -> np.ndarray:
    """The logits after min_tokens, bias and penalties."""
    edited = []
    for token, logit in enumerate(logits.tolist()):
        value = logit
        if len(answer) < params.min_tokens and token in ends:
            value = -math.inf
        value = float(F(value + params.logit_bias.get(token, 0.0)))
        if token in prompt or token in answer:
            value = (
                value / params.repetition_penalty
                if value > 0
                else value * params.repetition_penalty
            )
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
    total = sum(mass.values())
    target = min(int(uniform(params.seed, position) * float(total)), total - 1)
    for token, weight in mass.items():
        target -= weight
        if target < 0:
            return token
    raise AssertionError("no token holds the target")
