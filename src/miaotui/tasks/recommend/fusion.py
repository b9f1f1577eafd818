"""Weights of the parts, learned on events that are held out: those of each user that came last, and others by chance.

Owns both ways to hold out, the choice of EASE's penalty and the search for weights. Knows parts as rows of standard
scores. Weights raise nDCG@10 by coordinate ascent (Metzler and Croft, "Linear feature-based models for information
retrieval", 2007), which needs no gradient of a ranking. The smaller of both gains over the best single part counts,
since recent popularity helps with what comes next and harms with what was left out by chance. Invariants: the search
begins with a single part and takes only steps that gain `LEAST_GAIN`; a log that is too small for it keeps
`DEFAULT_WEIGHTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from miaotui.tasks.recommend.collaborative import EaseModel, Floats, Spectrum
from miaotui.tasks.recommend.log import EventLog
from miaotui.tasks.recommend.parts import PARTS, History, Parts

PENALTIES = (30.0, 100.0, 300.0, 1_000.0, 3_000.0)
DEFAULT_PENALTY = 100.0
DEFAULT_WEIGHTS = (1.0, 0.2, 0.2, 0.1, 0.0)  # in the order of `PARTS`
LIKING = ("ease", "neighbours", "content")  # parts whose weight is never negative
HELD_SHARE = 0.2  # of each user's events
LEAST_EVENTS = 5  # of a user whose events are held out
LEAST_USERS, MOST_USERS = 20, 500  # that weights are learned from
TOP = 10
LEAST_GAIN = 2e-3  # of nDCG as a share of the best single part's, for a step
_BLOCK = 128  # users whose scores are computed together
_CANDIDATES = 150  # of each part
_STEPS = (0.5, 0.25, 0.1, 0.05)
DISCOUNTS = 1.0 / np.log2(np.arange(2, TOP + 2))


Way = Literal["time", "chance"]
WAYS: tuple[Way, ...] = ("time", "chance")


@dataclass(frozen=True)
class HeldOut:
    """Users some of whose events are held out: what each keeps, and what is held out (item numbers)."""

    before: EventLog
    histories: tuple[History, ...]
    wanted: tuple[NDArray[np.int32], ...]


def histories_of(log: EventLog, users: int) -> list[History]:
    """Return the history of each user, weights relative to their mean over the log."""
    order = np.argsort(log.user, kind="stable")
    ends = np.cumsum(np.bincount(log.user, minlength=users))
    mean = float(log.weight.mean()) if len(log) else 1.0
    items, weights = log.item[order], (log.weight[order] / mean).astype(np.float32)
    return [History(*pair) for pair in zip(np.split(items, ends[:-1]), np.split(weights, ends[:-1]), strict=True)]


def hold_out(log: EventLog, way: Way = "time") -> HeldOut | None:
    """Hold out events of each user with enough, the last ones or some by chance; None with too few such users."""
    users = len(log.users)
    counts = np.bincount(log.user, minlength=users)
    places = np.arange(len(log)) if way == "time" else np.random.default_rng(1).permutation(len(log))
    order = np.lexsort((places, log.user))
    rank = np.empty(len(log), np.int64)
    rank[order] = np.arange(len(log)) - np.repeat(np.cumsum(counts) - counts, counts)
    keeps = np.where(counts >= LEAST_EVENTS, counts - np.maximum(1, (HELD_SHARE * counts).astype(int)), counts)
    held = rank >= keeps[log.user]
    tried = np.flatnonzero(counts >= LEAST_EVENTS)
    if len(tried) < LEAST_USERS:
        return None
    tried = tried[np.random.default_rng(0).permutation(len(tried))[:MOST_USERS]]
    before = log.part(~held)
    histories = histories_of(before, users)
    wanted = [each.places for each in histories_of(log.part(held), users)]
    return HeldOut(before, tuple(histories[user] for user in tried), tuple(wanted[user] for user in tried))


def choose_penalty(trials: Sequence[tuple[Spectrum, HeldOut]]) -> float:
    """Return the penalty with which EASE ranks held-out events best, over the ways to hold out."""

    def quality(spectrum: Spectrum, trial: HeldOut, penalty: float) -> float:
        model = EaseModel.of(spectrum, penalty)
        found = []
        for first in range(0, len(trial.histories), _BLOCK):
            block = trial.histories[first : first + _BLOCK]
            all_scores = model.scores_of(np.stack([model.profile(each.places, each.weights) for each in block]))
            for history, wanted, scores in zip(block, trial.wanted[first : first + _BLOCK], all_scores, strict=True):
                scores[history.places] = -np.inf
                found.append(gain_of(np.isin(top_of(scores), wanted), len(wanted)))
        return float(np.mean(found))

    found = np.array([[quality(*trial, penalty) for penalty in PENALTIES] for trial in trials])
    shares = found / np.maximum(found.max(axis=1, keepdims=True), 1e-9)
    return PENALTIES[int(shares.sum(axis=0).argmax())]


def learn_weights(trials: Sequence[tuple[Parts, HeldOut]]) -> tuple[float, ...]:
    """Return a weight for each part, the largest being 1, from parts that were fitted to what each trial keeps."""
    measures = [_measure(*trial) for trial in trials]
    bests = [max(map(measure, np.eye(len(PARTS), dtype=np.float32))) or 1.0 for measure in measures]

    def quality(weights: Floats) -> float:
        return min(measure(weights) / best for measure, best in zip(measures, bests, strict=True))

    singles = np.eye(len(PARTS), dtype=np.float32)
    weights = max(singles, key=quality)
    best = quality(weights)
    for step in _STEPS:
        improved = True
        while improved:
            improved = False
            for place in range(len(PARTS)):
                for change in (step, -step):
                    tried = weights.copy()
                    tried[place] += change
                    if tried[place] < 0 and PARTS[place] in LIKING:
                        continue
                    found = quality(tried)
                    if found > best + LEAST_GAIN:
                        weights, best, improved = tried, found, True
    largest = float(np.abs(weights).max()) or 1.0
    return tuple(float(each) / largest for each in weights)


def _measure(parts: Parts, trial: HeldOut) -> Callable[[Floats], float]:
    """Return what gives the mean nDCG@10 of weights over the users of a trial."""
    features, relevant, absent, totals = _candidates(parts, trial)

    def quality(weights: Floats) -> float:
        scores = np.where(absent, -np.inf, features @ weights)
        best = np.argpartition(-scores, min(TOP, scores.shape[1]) - 1, axis=1)[:, :TOP]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
        hits = np.take_along_axis(relevant, np.take_along_axis(best, order, 1), 1)
        return float(((hits @ DISCOUNTS[: hits.shape[1]]) / totals).mean())

    return quality


def _candidates(
    parts: Parts, trial: HeldOut
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
    """Return standard scores ``[users, c, parts]`` of the best items of each part and of all held-out ones, whether
    each was held out, whether there is none in that place, and the best possible gain of each user.
    """
    width = min(parts.items, (len(PARTS) + 1) * _CANDIDATES)
    features = np.zeros((len(trial.histories), width, len(PARTS)), np.float32)
    relevant, absent = np.zeros(features.shape[:2], bool), np.ones(features.shape[:2], bool)
    for row, (history, wanted) in enumerate(zip(trial.histories, trial.wanted, strict=True)):
        scores = parts.scores(history)
        depth = min(_CANDIDATES, parts.items)
        open_scores = scores.copy()
        open_scores[:, history.places] = -np.inf
        best = np.argpartition(-open_scores, depth - 1, axis=1)[:, :depth]
        chosen = np.union1d(wanted[:_CANDIDATES], np.setdiff1d(best.ravel(), history.places))[:width]
        features[row, : len(chosen)] = scores[:, chosen].T
        relevant[row, : len(chosen)] = np.isin(chosen, wanted)
        absent[row, : len(chosen)] = False
    totals = np.array([best_gain(len(wanted)) for wanted in trial.wanted])
    return features, relevant, absent, totals


def top_of(scores: Floats, count: int = TOP) -> NDArray[np.int64]:
    """Return the places of the highest scores, best first; ties go to the lower place."""
    count = min(count, len(scores))
    if count < 1:
        return np.empty(0, np.int64)
    bound = np.partition(scores, len(scores) - count)[len(scores) - count]
    places = np.flatnonzero(scores >= bound)
    found: NDArray[np.int64] = places[np.argsort(-scores[places], kind="stable")][:count]
    return found


def gain_of(hits: Sequence[bool] | NDArray[np.bool_], wanted: int) -> float:
    """Return nDCG@10 of a ranking whose ``hits`` are wanted items (Järvelin and Kekäläinen, 2002)."""
    given = np.asarray(hits, float)[:TOP]
    return float(given @ DISCOUNTS[: len(given)]) / best_gain(wanted)


def best_gain(wanted: int) -> float:
    """Return the gain of the best ranking of so many wanted items."""
    return float(DISCOUNTS[: max(1, min(wanted, TOP))].sum())
