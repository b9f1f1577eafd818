"""Usage and deadline report of an answer.

Owns those two objects. Knows neither routes nor streams. Invariant: ``took_ms`` is measured when the report is made,
right before the answer's last bytes are handed over.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from miaotui.serve.answer import ModelAnswer
from miaotui.types import Completion


def usage(completions: Sequence[Completion], n: int, reasoning_tokens: int | None = None) -> dict[str, Any]:
    """Return OpenAI's usage of answers in the order of prompts, ``n`` to each; a prompt counts once.

    ``reasoning_tokens`` are those of all thoughts; None: the model has none.
    """
    prompts = completions[::n]
    asked = sum(completion.prompt_tokens for completion in prompts)
    answered = sum(len(completion.token_ids) for completion in completions)
    cached = sum(completion.cached_tokens for completion in prompts)
    thought = {} if reasoning_tokens is None else {"completion_tokens_details": {"reasoning_tokens": reasoning_tokens}}
    return {
        "prompt_tokens": asked,
        "completion_tokens": answered,
        "total_tokens": asked + answered,
        "prompt_tokens_details": {"cached_tokens": cached},
        **thought,
    }


def deadline_report(answers: Sequence[ModelAnswer], arrived_s: float) -> dict[str, Any]:
    """Return how the answers of one HTTP request stood to its deadline; milliseconds from its arrival."""
    promises = [answer.promise for answer in answers]
    asked_ms = promises[0].asked_ms
    took_ms = (time.perf_counter() - arrived_s) * 1e3
    verdicts = [promise.met for promise in promises]
    met = None if None in verdicts else all(verdicts)
    if met and asked_ms is not None:
        met = took_ms <= asked_ms
    return {
        "asked_ms": asked_ms,
        "predicted_ms": round(max(promise.predicted_ms for promise in promises), 1),
        "took_ms": round(took_ms, 1),
        "met": met,
        "shortened": any(promise.shortened for promise in promises),
    }
