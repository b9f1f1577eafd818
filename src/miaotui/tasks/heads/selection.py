"""Choice of a head's layer by held-out examples: kernel ridge regression for few, logistic regression for many.

Owns the candidates, and the figures by which one is chosen. Knows neither texts nor labels' names. Invariant: every
figure is of examples that the fit in question did not see, so the temperature that comes with it is calibrated. Source
of the rule that lets few examples not outvote descriptions: Breiman et al. 1984, Classification and Regression Trees,
section 3.4.3 (one standard error).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import RequestError
from miaotui.tasks.calibration import CalibrationReport, fit_temperature, log_losses, report
from miaotui.tasks.heads.kernel_ridge import KernelLayer, fit_kernel, fit_kernels
from miaotui.tasks.heads.logistic import Linear, fit_logistic

Floats = NDArray[np.float32]
Targets = NDArray[np.int64]
Doubles = NDArray[np.float64]
Layer = Linear | KernelLayer
NO_LOSSES: Doubles = np.empty(0)
FOLDS = 5
PENALTIES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)  # of the mean loss, strongest first
RIDGE_PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)  # beside a kernel whose diagonal is 1
GAMMAS = (0.4, 1.3)  # times the mean distance of examples, 1 - cosine
LEAST_DISTANCE = 1e-4
USUAL_PENALTY = 0.3
NAME_WEIGHTS = (0.0, 1.0, 4.0, 16.0, 64.0)  # of a label's name or description, in examples
MANY_ROWS = 800  # beyond which names are tried with the first two weights only
MOST_NAMED_ROWS = 1200  # examples beyond which names are tried with one kernel only: they help little, and cost time
RIDGE_TEMPERATURE = 0.15  # until held-out examples give another one
MOST_KERNEL_ROWS = 2560  # a fit takes time by the cube of them: about ten seconds on one core


class ChosenLayer(NamedTuple):
    """Layer with its penalty, the temperature of its probabilities, and its figures on held-out examples.

    ``held_out`` is None where no label has two examples; ``losses`` are those of each held-out example, in nats.
    ``n_names``: as many rows in front, vectors of the labels' names, were learned as examples.
    """

    layer: Layer
    penalty: float
    temperature: float
    held_out: CalibrationReport | None
    n_names: int = 0
    name_weight: float = 0.0
    losses: Doubles = NO_LOSSES


class NameRows(NamedTuple):
    """Unit vectors ``[m, d]`` of names or descriptions of labels, and the label ``[m]`` of each.

    ``are_descriptions``: they were written for the labels, and say more than names do.
    """

    vectors: Floats
    targets: Targets
    are_descriptions: bool = False


def choose_layer(vectors: Floats, targets: Targets, n_labels: int, names: NameRows | None = None) -> ChosenLayer:
    """Fit layers to unit vectors ``[n, d]`` with ``targets [n]`` and return the best one by held-out log loss.

    Few examples are tried without ``names`` and with them in several weights. Of weights of descriptions whose loss is
    within one standard error of the least one, the greatest is taken: few examples say little against them.
    """
    n_names = 0 if names is None else len(names.targets)
    if len(targets) + n_names > MOST_KERNEL_ROWS:
        return _logistic(vectors, targets, n_labels)
    found = _kernels(vectors, targets, n_labels, 0, 0.0)
    if names is not None:
        rows = np.concatenate([names.vectors, vectors])
        both = np.concatenate([names.targets, targets])
        gammas = GAMMAS if len(targets) <= MOST_NAMED_ROWS else (_best_gamma(found),)
        for weight in NAME_WEIGHTS[1 : 2 if len(rows) > MANY_ROWS else None if names.are_descriptions else -1]:
            found += _kernels(rows, both, n_labels, n_names, weight, gammas)
    if found[-1].held_out is None:
        return found[-1]
    return heaviest(found) if names is not None and names.are_descriptions else _best(found)


def refit(
    vectors: Floats, targets: Targets, n_labels: int, penalty: float, start: Layer | None, weight: Floats
) -> tuple[Layer, float]:
    """Fit a layer of the kind of ``start`` (None: by the number of examples) with its penalty; return both."""
    if isinstance(start, Linear) or (start is None and len(targets) > MOST_KERNEL_ROWS):
        return fit_logistic(vectors, targets, n_labels, penalty, weight=weight, start=start), penalty
    gamma = GAMMAS[-1] / mean_distance(vectors) if start is None else start.gamma
    penalty = USUAL_PENALTY if start is None else penalty
    return fit_kernel(vectors, targets, n_labels, gamma, penalty, weight), penalty


def balance(targets: Targets) -> Floats:
    """Return weights ``[n]`` under which rare labels count between their share and an equal one."""
    counts = np.bincount(targets)
    return np.asarray(1.0 / np.sqrt(counts[targets]), np.float32)


def mean_distance(vectors: Floats) -> float:
    """Return the mean of ``1 - cosine`` over pairs of unit vectors ``[n, d]``: encoders differ much in it."""
    n = len(vectors)
    total = np.square(vectors.sum(axis=0, dtype=np.float64)).sum()
    return max(1.0 - float(total - n) / max(n * (n - 1), 1), LEAST_DISTANCE)


def row_weights(targets: Targets, n_names: int, name_weight: float) -> Floats:
    """Return weights ``[n]`` of examples, balanced over labels; ``name_weight`` counts for the first ``n_names``."""
    weight = balance(targets)
    weight[:n_names] *= np.float32(name_weight)
    return weight


def learning_weights(targets: Targets, n_names: int, name_weight: float) -> Floats:
    """Return `row_weights` under which labels that came later, without a name, weigh as much as a name does."""
    weight = row_weights(targets, n_names, name_weight)
    counts = np.bincount(targets)[targets]
    later = ~np.isin(targets, targets[:n_names]) if n_names else np.zeros(len(targets), np.bool_)
    weight[later] *= np.maximum(np.float32(name_weight) / counts[later], 1.0).astype(np.float32)
    return weight


def _best_gamma(found: Sequence[ChosenLayer]) -> float:
    """Return which of `GAMMAS` the best candidate has; ``found`` lists the candidates of each in turn."""
    place = min(range(len(found)), key=lambda at: _loss(found[at]))
    return GAMMAS[place * len(GAMMAS) // len(found)]


def _kernels(
    vectors: Floats, targets: Targets, n_labels: int, n_names: int, name_weight: float, gammas: Sequence[float] = GAMMAS
) -> list[ChosenLayer]:
    """Return kernel layers of all penalties; the first ``n_names`` rows are learned from and not counted."""
    counts = np.bincount(targets[n_names:], minlength=n_labels)
    held = n_names + np.flatnonzero(counts[targets[n_names:]] > 1)
    weight, distance = row_weights(targets, n_names, name_weight), mean_distance(vectors)
    if not len(held):
        layer = fit_kernel(vectors, targets, n_labels, GAMMAS[-1] / distance, USUAL_PENALTY, weight)
        return [ChosenLayer(layer, USUAL_PENALTY, RIDGE_TEMPERATURE, None, n_names, name_weight)]
    return [
        _judged(ChosenLayer(fit.layer, fit.penalty, 1.0, None, n_names, name_weight), fit.held_out[held], targets[held])
        for gamma in gammas
        for fit in fit_kernels(vectors, targets, n_labels, gamma / distance, RIDGE_PENALTIES, weight)
    ]


def _logistic(vectors: Floats, targets: Targets, n_labels: int) -> ChosenLayer:
    """Return the best logistic regression, by cross-validation."""
    folds = fold_numbers(targets)
    held = np.flatnonzero(folds >= 0)
    logits = {penalty: np.zeros((len(targets), n_labels), np.float32) for penalty in PENALTIES}
    for fold in range(int(folds.max(initial=-1)) + 1):
        out = folds == fold
        start: Linear | None = None
        for penalty in PENALTIES:
            inside = targets[~out]
            start = fit_logistic(vectors[~out], inside, n_labels, penalty, weight=balance(inside), start=start)
            logits[penalty][out] = start.logits(vectors[out])
    empty = Linear(np.zeros((n_labels, vectors.shape[1]), np.float32), np.zeros(n_labels, np.float32))
    found = _best(
        [_judged(ChosenLayer(empty, each, 1.0, None), rows[held], targets[held]) for each, rows in logits.items()]
    )
    layer = fit_logistic(vectors, targets, n_labels, found.penalty, weight=balance(targets))
    return found._replace(layer=layer)


def _judged(chosen: ChosenLayer, logits: NDArray[np.floating], targets: Targets) -> ChosenLayer:
    """Return a candidate with the temperature and the figures that its held-out logits give."""
    temperature = fit_temperature(logits, targets)
    return chosen._replace(
        temperature=temperature,
        held_out=report(logits, targets, temperature),
        losses=log_losses(logits, targets, temperature),
    )


def heaviest(found: Sequence[ChosenLayer]) -> ChosenLayer:
    """Return the best candidate of the greatest weight of names whose loss is within one standard error of the least.

    The error is that of the difference, example by example. Names that do not help at all are left out.
    """
    best = _best(found)
    if not best.name_weight:
        return best
    close = [best]
    for weight in {each.name_weight for each in found if each.name_weight > best.name_weight}:
        rival = _best([each for each in found if each.name_weight == weight])
        more = rival.losses - best.losses
        if more.mean() <= more.std() / math.sqrt(len(more)):
            close.append(rival)
    return max(close, key=lambda each: each.name_weight)


def _best(found: Sequence[ChosenLayer]) -> ChosenLayer:
    """Return the candidate of the least log loss. Raises `RequestError` for none."""
    if not found:
        raise RequestError("no layer was tried: give examples")
    return min(found, key=_loss)


def _loss(chosen: ChosenLayer) -> float:
    return math.inf if chosen.held_out is None else chosen.held_out.log_loss


def fold_numbers(targets: Targets) -> Targets:
    """Return each example's fold ``[n]``: those of a label are dealt out in turn; -1: always in the fit."""
    counts = np.bincount(targets)
    folds = np.full(len(targets), -1, np.int64)
    n_folds = min(FOLDS, int(counts[counts > 0].max(initial=0)))
    if n_folds < 2:
        return folds
    dealt = np.zeros(len(counts), np.int64)
    for place, target in enumerate(targets):
        if counts[target] > 1:
            folds[place] = (dealt[target] + target) % n_folds
            dealt[target] += 1
    return folds
