"""Distances between a teacher's and a student's distributions, for training.

Owns the objectives. The teacher's distribution is given by its likeliest tokens and one class for all others, in which
the student's other tokens are summed too; that bounds the distance of whole distributions from below (data processing).
Knows no models. Invariant: each objective is 0 for equal distributions, and never negative.
Sources: Hinton et al. 2015 (forward); Gu et al. 2024, MiniLLM (reverse); Agarwal et al. 2024, GKD (Jensen-Shannon).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from miaotui.errors import RequestError

Tensor = Any  # torch is an extra that may be missing
Objective = Literal["forward", "reverse", "jsd"]
TINY = 1e-12


def require_objective(name: str) -> None:
    """Raise `RequestError` for an objective that is not known."""
    if name not in get_args(Objective):
        raise RequestError(f"the objective must be one of {', '.join(get_args(Objective))}, not {name!r}")


def distance(torch: Any, objective: Objective, teacher: Tensor, ids: Tensor, logits: Tensor) -> Tensor:
    """Return each position's distance in nats, ``[m]``.

    ``teacher [m, k]`` are log-probabilities of the tokens ``ids [m, k]``; ``logits [m, vocab]`` are the student's.
    """
    whole = torch.logsumexp(logits, -1, keepdim=True)
    student = _with_rest(torch, logits.gather(-1, ids) - whole)
    known = _with_rest(torch, teacher)
    if objective == "forward":
        return _divergence(known, student)
    if objective == "reverse":
        return _divergence(student, known)
    middle = torch.logaddexp(known, student) - torch.log(torch.tensor(2.0))
    return (_divergence(known, middle) + _divergence(student, middle)) / 2


def _with_rest(torch: Any, logs: Tensor) -> Tensor:
    """Return the log-probabilities with that of all other tokens behind them."""
    rest = torch.log((1 - logs.exp().sum(-1, keepdim=True)).clamp_min(TINY))
    return torch.cat([logs, rest], -1)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(-1)
