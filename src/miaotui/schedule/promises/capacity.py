"""The number of answers that this machine can promise, as a sentence.

Pure: it simulates imagined requests with the cost model. Knows nothing of running requests. Invariant: it claims no
more than admission would grant to equal requests.
"""

from __future__ import annotations

from dataclasses import dataclass

from miaotui.schedule.promises.cost import CostModel
from miaotui.schedule.promises.forecast import Job, JobForecast, SchedulingPolicy, forecast

PROMPT, ANSWER, WITHIN_S = 60, 120, 1.0  # tokens, tokens, seconds: a question and its answer


@dataclass(frozen=True, slots=True)
class Capacity:
    """One answer of ``answer_tokens`` takes ``alone_s``; ``people`` at a time get theirs in time."""

    answer_tokens: int
    alone_s: float
    people: int
    within_s: float

    def __str__(self) -> str:
        text = f"answers of {self.answer_tokens} tokens in {self.alone_s:.1f} s"
        if self.people > 1:
            text += f", {self.people} people at a time within {self.within_s:g} s"
        return text


def capacity(
    cost: CostModel, policy: SchedulingPolicy, within_s: float = WITHIN_S, forecast: JobForecast = forecast
) -> Capacity:
    """Simulate one, then more and more equal requests that come at once."""
    alone_s = _last_s(cost, policy, forecast, 1)
    people = 0
    while people < policy.width and _last_s(cost, policy, forecast, people + 1) <= within_s:
        people += 1
    return Capacity(ANSWER, alone_s, people, within_s)


def _last_s(cost: CostModel, policy: SchedulingPolicy, forecast: JobForecast, count: int) -> float:
    jobs = [Job(number, PROMPT, ANSWER, order_s=WITHIN_S, arrival=number) for number in range(count)]
    found = forecast(jobs, cost, policy, 0.0)
    return max(cost.allowed_s(finish.first_s, finish.last_s - finish.first_s) for finish in found.values())
