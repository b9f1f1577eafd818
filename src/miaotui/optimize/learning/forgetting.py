"""Measures forgetting on texts that were not learned: divergence, and perplexity before and after.

Owns the sums. Knows no files. Invariant: logits of some positions are in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from miaotui.training.decoder import HEAD_ROWS, TorchDecoder

Base = Callable[[], AbstractContextManager[TorchDecoder]]


@dataclass(frozen=True)
class Forgetting:
    """Mean divergence from the model before (nats a token, with its standard error over texts), share of positions
    with the same likeliest token, and losses (nats a token) on the texts before and after.
    """

    kl: float
    kl_error: float
    same_top: float
    before: float
    after: float
    tokens: int


def forgetting(base: Base, tuned: TorchDecoder, rows: Sequence[Sequence[int]]) -> Forgetting:
    """Compare ``tuned`` with the model before, over rows of tokens; ``base`` gives a decoder that computes it."""
    torch = tuned.torch
    kls: list[float] = []
    tops: list[float] = []
    before: list[float] = []
    after: list[float] = []
    with torch.no_grad():
        for row in rows:
            tokens = torch.tensor([list(row)])
            ours = tuned.states(tokens)[0, :-1]
            with base() as decoder:
                theirs = decoder.states(tokens)[0, :-1]
            wanted = tokens[0, 1:]
            sums = np.zeros(4)
            for start in range(0, len(wanted), HEAD_ROWS):
                part = slice(start, start + HEAD_ROWS)
                found = tuned.logits(ours[part]).double().log_softmax(-1)
                with base() as decoder:
                    known = decoder.logits(theirs[part]).double().log_softmax(-1)
                sums[0] += float((known.exp() * (known - found)).sum())
                sums[1] += float((known.argmax(-1) == found.argmax(-1)).sum())
                for place, logs in ((2, known), (3, found)):
                    sums[place] -= float(logs.gather(-1, wanted[part, None]).sum())
            for values, each in zip((kls, tops, before, after), sums / max(len(wanted), 1), strict=True):
                values.append(float(each))
    weights = np.array([max(len(row) - 1, 1) for row in rows], np.float64)
    mean = [float(np.average(each, weights=weights)) for each in (kls, tops, before, after)]
    error = float(np.std(kls, ddof=1) / math.sqrt(len(kls))) if len(kls) > 1 else math.nan
    return Forgetting(mean[0], error, mean[1], mean[2], mean[3], int(weights.sum()))
