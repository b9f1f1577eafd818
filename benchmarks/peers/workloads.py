"""Requests to every engine, and the number taken from the answers.

Owns the workloads of the table and their prompts: token ids drawn at random, never the same twice
(a prefix cache must not answer for free), the same for all engines within a repetition. Knows no
engine. Invariant: temperature 0, end-of-text ignored, the number of new tokens fixed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from miaotui.bench import speed

Times = Sequence[Sequence[float]]
FIRST_ORDINARY_TOKEN = 100  # lower ids are special in the vocabularies used here


@dataclass(frozen=True)
class Workload:
    """One row of the table: ``streams`` prompts together, ``requests`` times (median)."""

    name: str
    streams: int
    prompt_tokens: int
    new_tokens: int
    unit: str
    metric: Callable[[int, Times], float]  # (prompt tokens, moments in seconds) -> the number
    requests: int = 1
    higher_is_better: bool = True

    def prompts(self, source: random.Random, n_vocab: int) -> list[list[int]]:
        """Draw fresh prompts."""
        length = range(self.prompt_tokens)
        return [[source.randrange(FIRST_ORDINARY_TOKEN, n_vocab) for _ in length] for _ in range(self.streams)]

    def value(self, answers: Sequence[Times]) -> float:
        """The median over the requests' answers."""
        return median(self.metric(self.prompt_tokens, times) for times in answers)


def decode_rate(_: int, times: Times) -> float:
    """New tokens per second while every stream is decoding, as `miaotui bench` counts them."""
    rate = speed.decode_rate(times)
    if not rate:
        raise ValueError("the streams were never decoded together; expected engines to batch them")
    return rate


def prefill_rate(prompt_tokens: int, times: Times) -> float:
    """Prompt tokens per second up to the first new token."""
    return prompt_tokens / times[0][0]


def first_token_ms(_: int, times: Times) -> float:
    """Milliseconds from the request to the first new token."""
    return 1e3 * times[0][0]


DECODE_1 = Workload("decode, 1 stream", 1, 40, 128, "tok/s", decode_rate)
DECODE_8 = Workload("decode, 8 streams", 8, 40, 128, "tok/s", decode_rate)
PREFILL = Workload("prefill, 512 tokens", 1, 512, 1, "tok/s", prefill_rate)
TTFT = Workload("TTFT, 40 tokens, warm", 1, 40, 1, "ms", first_token_ms, 5, False)


def all_workloads(long_answers: bool) -> list[Workload]:
    """The workloads, with answers of 128 tokens or (for slow models) 48."""
    new_tokens = 128 if long_answers else 48
    return [replace(w, new_tokens=new_tokens) for w in (DECODE_1, DECODE_8)] + [PREFILL, TTFT]
