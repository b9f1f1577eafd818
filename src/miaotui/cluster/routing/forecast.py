"""The time that a replica would take for one more request, from what it published and what was sent to it since.

Owns the costs that a replica publishes, its load as counts of tokens, and the sum. Knows no clock: all times are
seconds from now. Invariants: more work before a request never makes it sooner; a forecast takes the same few
operations however much a replica has to do. The replica's own book of promises is finer (`schedule.promises`): it has
the last word.
"""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = (1, 2, 4, 8, 16)  # answers together for which the cost of a token is published
REFERENCE_TOKENS = 256  # context at which it is


@dataclass(frozen=True, slots=True)
class ReplicaCost:
    """Costs of one replica, in seconds."""

    read_s: float  # of one prompt token
    answer_s: tuple[float, ...]  # of one token of each answer, while so many of `LEVELS` run together
    allowance: float = 1.1  # factor on forecasts that a promise allows for
    width: int = 16  # answers at once
    kept_pages: int = 0  # of prefixes

    def token_s(self, together: int) -> float:
        """Return the seconds of a token of each of ``together`` answers."""
        for level, seconds in zip(LEVELS, self.answer_s, strict=False):
            if together <= level:
                return seconds
        return self.answer_s[-1] * together / LEVELS[len(self.answer_s) - 1]


@dataclass(slots=True)
class ReplicaLoad:
    """Work that a replica has: requests, prompt tokens that are not read yet, answer tokens to come."""

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Outlook:
    """Seconds from now until one more request has its first token and its last one."""

    first_s: float
    last_s: float
    token_s: float  # of each token between


def outlook(cost: ReplicaCost, load: ReplicaLoad, prompt: int, held: int, answer: int) -> Outlook:
    """Return the forecast for ``prompt`` tokens, ``held`` of them computed already, and ``answer`` tokens."""
    together = min(load.requests + 1, cost.width)
    token_s = cost.token_s(together)
    wait_s = 0.0
    if load.requests >= cost.width:  # for a place: as many answers end first as stand in line too many
        each = load.answer_tokens / load.requests
        wait_s = (load.requests - cost.width + 1) / cost.width * each * token_s
    first_s = wait_s + (load.prompt_tokens + max(prompt - held, 1)) * cost.read_s + token_s
    return Outlook(first_s, first_s + max(answer - 1, 0) * token_s, token_s)
