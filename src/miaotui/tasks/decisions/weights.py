"""Weights of two sources of a decision, a model's log-probabilities and likeness by an encoder, fitted by examples.

Owns the weights and their fit. Knows neither models nor texts. Invariants: the loss is convex, so that a fit ends in
one place; few examples of a kind of question stay near the weights of all. Sources: McFadden 1974 (conditional logit);
Guo et al. 2017, arXiv:1706.04599 (with one source the weight is the inverse of a temperature).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.tasks.calibration import softmax_rows

Doubles = NDArray[np.float64]
NEARNESS = (8.0, 4.0, 2.0, 1.0, 0.5)  # how strongly weights of a kind may be held to those of all, in examples
FOLDS = 5  # of the examples of a kind, by which the hold is chosen
LEAST_FOLD = 6  # examples in a fold; kinds with fewer are held most strongly
MANY = 600  # examples beside which a hold of a few hardly matters
LEAST_LOGITS = 0.01  # the inverse of the highest temperature
LEAST_SHARE = 0.1  # of a usual weight: changes are measured by it where a weight of all is smaller, or zero
STEPS = 60


class SourceWeights(NamedTuple):
    """Weights: an option's logit is the weighted sum of its log-probability (nats) and of its likeness."""

    logits: float
    likeness: float


ALONE = SourceWeights(1.0, 0.0)  # the probabilities with which a grammar of the options would write them
USUAL_WEIGHTS = SourceWeights(0.3, 16.0)  # of training examples of four public sets (benchmarks/tasks/decisions.py)


class SourcedOptions(NamedTuple):
    """One answered question: log-probabilities and likeness of its options, the place of the right one, and a kind."""

    log_probabilities: Sequence[float]
    likeness: Sequence[float] | None
    right: int
    kind: str


def kind_of(kind: str, n_options: int) -> str:
    """Return the kind of question that shares weights: as many options, up to a power of two."""
    return f"{kind}/{1 << (n_options - 1).bit_length()}"


def logits_of(
    log_probabilities: Sequence[float], likeness: Sequence[float] | None, weights: SourceWeights
) -> list[float]:
    """Return the options' logits."""
    if likeness is None:
        return [weights.logits * each for each in log_probabilities]
    pairs = zip(log_probabilities, likeness, strict=True)
    return [weights.logits * first + weights.likeness * second for first, second in pairs]


def fit_weights(examples: Sequence[SourcedOptions]) -> tuple[SourceWeights, dict[str, SourceWeights]]:
    """Return the weights that make the right options likeliest: of all questions, and of each kind.

    All examples must have likeness, or none. Weights are never negative.
    """
    overall = _fitted(examples, usual_weights(examples[0].likeness), held=1.0)
    by_kind: dict[str, list[SourcedOptions]] = {}
    for each in examples:
        by_kind.setdefault(each.kind, []).append(each)
    return overall, {kind: _fitted(own, overall, held=_hold(own, overall)) for kind, own in by_kind.items()}


def _hold(examples: Sequence[SourcedOptions], overall: SourceWeights) -> float:
    """Return the hold with the least log loss on examples that a fit did not see, by cross-validation."""
    if not FOLDS * LEAST_FOLD <= len(examples) <= MANY:
        return NEARNESS[-1] if len(examples) > MANY else NEARNESS[0]

    def unseen_loss(held: float) -> float:
        losses = []
        for fold in range(FOLDS):
            seen = [each for place, each in enumerate(examples) if place % FOLDS != fold]
            weights = _fitted(seen, overall, held)
            losses += [_loss_of(each, weights) for each in examples[fold::FOLDS]]
        return math.fsum(losses)

    return min(NEARNESS, key=unseen_loss)


def usual_weights(likeness: Sequence[float] | None) -> SourceWeights:
    """Return the weights before any example, with or without likeness."""
    return ALONE if likeness is None else USUAL_WEIGHTS


def weights_for(kind: str, overall: SourceWeights, by_kind: Mapping[str, SourceWeights]) -> SourceWeights:
    """Return the weights of a kind of question; those of all where none of that kind was seen."""
    return by_kind.get(kind, overall)


def _fitted(examples: Sequence[SourcedOptions], centre: SourceWeights, held: float) -> SourceWeights:
    """Return the least of the examples' log loss plus ``held`` times half the squared relative change, by Newton."""
    has_likeness = examples[0].likeness is not None
    columns = [_columns(each, has_likeness) for each in examples]
    middle = np.array(centre if has_likeness else centre[:1], np.float64)
    usual = np.array(USUAL_WEIGHTS[: len(middle)])
    scale = held / np.square(np.maximum(middle, LEAST_SHARE * usual))
    least = np.array([LEAST_LOGITS, 0.0][: len(middle)])
    at = middle.copy()
    value = _loss(columns, examples, at) + 0.5 * float(scale @ np.square(at - middle))
    for _ in range(STEPS):
        gradient, curvature = scale * (at - middle), np.diag(scale)
        for rows, each in zip(columns, examples, strict=True):
            share = softmax_rows(rows @ at)[0]
            mean = share @ rows
            gradient = gradient + mean - rows[each.right]
            curvature = curvature + (rows - mean).T @ ((rows - mean) * share[:, None])
        length = 1.0
        step = np.linalg.solve(curvature, gradient)
        while length > 1e-6:
            there = np.maximum(at - length * step, least)
            loss = _loss(columns, examples, there) + 0.5 * float(scale @ np.square(there - middle))
            if loss <= value:
                break
            length /= 2.0
        if length <= 1e-6 or value - loss < 1e-10:
            break
        at, value = there, loss
    return SourceWeights(float(at[0]), float(at[1]) if has_likeness else centre.likeness)


def _loss_of(example: SourcedOptions, weights: SourceWeights) -> float:
    """Return the log loss of one example, in nats."""
    columns = _columns(example, example.likeness is not None)
    return _loss([columns], [example], np.array(weights[: columns.shape[1]], np.float64))


def _columns(example: SourcedOptions, has_likeness: bool) -> Doubles:
    """Return the sources ``[options, sources]``; a log-probability of -inf counts as a very small one."""
    first = [max(each, -1e3) for each in example.log_probabilities]
    sources = [first, example.likeness] if has_likeness else [first]
    return np.stack([np.array(each, np.float64) for each in sources], axis=1)


def _loss(columns: Sequence[Doubles], examples: Sequence[SourcedOptions], at: Doubles) -> float:
    losses = []
    for rows, each in zip(columns, examples, strict=True):
        logits = rows @ at
        losses.append(float(np.logaddexp.reduce(logits) - logits[each.right]))
    return math.fsum(losses)
