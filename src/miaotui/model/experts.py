"""Mixtures of experts: their configuration, and which experts a row of a layer chooses.

Owns the valid ranges and the formula of routing, in NumPy. Knows neither files nor kernels. Invariant: the choice of
a row depends on that row's router logits alone; of equal scores the expert with the lower number is chosen.
Sources: Shazeer et al. 2017 (section 2.1), Fedus et al. 2021, DeepSeek-V2 (2024, section 2.2.2) for groups, DeepSeek-V3
(2024, section 2.1.2) for the added bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import UnsupportedModelError
from miaotui.model.reading.checks import require, require_count, require_positive

MAX_EXPERTS = 1024
MAX_CHOSEN = 64
MAX_GROUPS = 32
SWIGLU_ALPHA, SWIGLU_LIMIT = 1.702, 7.0
BLOCK = 32  # inputs of one quantization block
Array = NDArray[np.float32]
Scores = Literal["softmax", "sigmoid"]


class ExpertGroups(NamedTuple):
    """Groups of experts that follow each other: a row chooses some groups, then experts of these alone."""

    number: int = 1
    kept: int = 1  # groups that a row chooses: those of the highest ranks
    best: int = 1  # a group's rank is the sum of so many of its highest scores, 1 or 2


NO_GROUPS = ExpertGroups()


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """Shape and routing of the experts of a model.

    Raises `ModelFormatError` for values that no model can have and `UnsupportedModelError` for widths that are not
    whole blocks of 32.
    """

    layers: tuple[bool, ...]  # per layer: whether it has experts; the others have one feed-forward part
    count: int
    chosen: int  # experts that each row uses
    size: int  # feed-forward width of one expert
    scores: Scores = "softmax"
    normalized: bool = True  # the chosen experts' scores are divided by their sum
    scale: float = 1.0  # of all weights, after that
    biased: bool = False  # a bias is added to the scores, for the choice only
    groups: ExpertGroups = NO_GROUPS
    shared_size: int = 0  # width of an expert that all rows use besides; 0: none
    shared_gate: bool = False  # its result is multiplied by a sigmoid of the row
    router_bias: bool = False  # the router's product has a bias
    expert_bias: bool = False  # so have the products of each expert
    beside: bool = False  # the layer's feed-forward part runs beside them, each with a norm of its own (Gemma 4)
    clamped: bool = False  # the activation is `swiglu_clamped`, not the model's own

    def __post_init__(self) -> None:
        require_count("expert count", self.count, MAX_EXPERTS)
        require_count("number of chosen experts", self.chosen, min(self.count, MAX_CHOSEN))
        require_positive("scale of expert weights", self.scale)
        self._check_groups()
        require(any(self.layers), "layers with experts", "at least one", 0)
        for name, width in (("expert width", self.size), ("shared expert's width", self.shared_size)):
            if width % BLOCK:
                raise UnsupportedModelError(
                    f"the model's {name} is {width}, and only multiples of {BLOCK} are supported: choose another model"
                )

    @property
    def replace_all(self) -> bool:
        """Return whether no layer has a usual feed-forward part."""
        return all(self.layers) and not self.beside

    def _check_groups(self) -> None:
        groups = self.groups
        require_count("number of expert groups", groups.number, min(self.count, MAX_GROUPS))
        require_count("number of chosen groups", groups.kept, groups.number)
        even = f"a divisor of the {self.count} experts"
        require(self.count % groups.number == 0, "number of expert groups", even, groups.number)
        size = self.count // groups.number
        enough = f"enough to choose {self.chosen} experts from"
        require(groups.kept * size >= self.chosen, "number of chosen groups", enough, groups.kept)
        require(1 <= groups.best <= min(2, size), "scores that rank a group", "1 or 2", groups.best)


def route(logits: Array, experts: ExpertsConfig, bias: Array | None = None) -> tuple[NDArray[np.intp], Array]:
    """Choose experts by router ``logits [n, count]``: their numbers and weights, ``[n, chosen]`` each.

    Numbers ascend in each row. ``bias [count]`` is added to the scores for the choice only.
    """
    scores = _scores(logits, experts.scores)
    ranked = scores if bias is None else scores + bias
    if experts.groups.number > 1:
        ranked = np.where(_in_kept_groups(ranked, experts), ranked, np.float32(-np.inf))
    numbers = np.sort(np.argsort(-ranked, axis=1, kind="stable")[:, : experts.chosen], axis=1)
    weights = np.take_along_axis(scores, numbers, axis=1)
    if experts.normalized:
        weights = weights / weights.sum(axis=1, keepdims=True)
    return numbers, weights * np.float32(experts.scale)


def _in_kept_groups(ranked: Array, experts: ExpertsConfig) -> NDArray[np.bool_]:
    """Return which experts lie in the groups that each row chooses, ``[n, count]``."""
    rows, groups = len(ranked), experts.groups
    size = experts.count // groups.number
    best = np.sort(ranked.reshape(rows, groups.number, size), axis=2)[..., -groups.best :].sum(axis=2)
    chosen = np.argsort(-best, axis=1, kind="stable")[:, : groups.kept]
    kept = np.zeros((rows, groups.number), np.bool_)
    np.put_along_axis(kept, chosen, True, axis=1)
    return np.repeat(kept, size, axis=1)


def swiglu_clamped(gate: Array, up: Array) -> Array:
    """Return ``gate * sigmoid(1.702 gate) * (up + 1)`` of values clamped to 7 (OpenAI 2025, gpt-oss model card)."""
    limit = np.float32(SWIGLU_LIMIT)
    gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    y: Array = gate * sigmoid(gate * np.float32(SWIGLU_ALPHA)) * (up + 1)
    return y


def sigmoid(x: Array) -> Array:
    """Return ``1 / (1 + exp(-x))``, written with tanh, which cannot overflow."""
    y: Array = np.float32(0.5) * (1 + np.tanh(x * np.float32(0.5)))
    return y


def expected_distinct(rows: int, experts: ExpertsConfig) -> float:
    """Return how many experts of a layer ``rows`` rows use together, if each chooses evenly and alone."""
    return experts.count * (1 - math.pow(1 - experts.chosen / experts.count, rows))


def _scores(logits: Array, kind: Scores) -> Array:
    if kind == "sigmoid":
        return sigmoid(logits)
    weights: Array = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights
