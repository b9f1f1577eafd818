"""Questions, caches and a clock for tests of kept answers."""

from __future__ import annotations

from typing import Any

from miaotui.retrieval.answers.cache import AnswerCache, AnswerKey, CacheOptions
from miaotui.retrieval.answers.calibrate import NearRule
from miaotui.types import SamplingParams

RULE = NearRule(threshold=0.9, bound=0.001, trials=5000, false_hits=0)


QUESTION = "How do I reset the password of my account?"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def asking(question: str = QUESTION, **changes: Any) -> AnswerKey:
    values: dict[str, Any] = {
        "model": "m1",
        "template": "t1",
        "namespace": "key-1",
        "params": SamplingParams(max_tokens=50),
        "messages": [{"role": "user", "content": question}],
    }
    return AnswerKey(**{**values, **changes})


def near_cache(**options: Any) -> AnswerCache:
    return AnswerCache(CacheOptions(near=RULE, **options))
