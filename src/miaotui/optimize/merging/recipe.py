"""Recipes of merges as checked values: the models, the method and its numbers.

Owns ranges and contradictions. Knows no file's contents. Invariant: a `MergeRecipe` that exists does not contradict
itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from miaotui.errors import RequestError

MergeMethod = Literal["linear", "slerp", "task-arithmetic", "ties", "dare-linear", "dare-ties"]
METHODS: tuple[MergeMethod, ...] = get_args(MergeMethod)
WITH_BASE = ("task-arithmetic", "ties", "dare-linear", "dare-ties")
WITH_DENSITY = ("ties", "dare-linear", "dare-ties")
USERS = {"t": ("slerp",), "scale": WITH_BASE, "seed": ("dare-linear", "dare-ties"), "densities": WITH_DENSITY}
TOKENIZERS = ("same", "union")
DTYPES = ("f32", "f16", "bf16")
MOST_MODELS = 16
Curve = tuple[float, ...]  # over the layers, from the first to the last, linear between; one number: everywhere


@dataclass(frozen=True)
class MergeRecipe:
    """Recipe of a merge. Raises `RequestError` for one that contradicts itself.

    ``models`` are names or paths; ``base`` is the model that the others were trained from, for methods that add task
    vectors. ``weights`` has one curve for each model. ``densities`` are the shares of each task vector that stay.
    ``t`` is SLERP's place between two models, ``scale`` the factor of the summed task vectors (λ). With ``normalize``
    weights are divided by their sum. ``dtype`` None keeps the base's types, and writes quantised matrices as f16.
    """

    method: MergeMethod
    models: tuple[str, ...]
    base: str | None = None
    weights: tuple[Curve, ...] = ()
    densities: Curve = ()
    t: Curve = (0.5,)
    scale: float = 1.0
    normalize: bool = True
    seed: int = 0
    dtype: str | None = None
    tokenizer: str = "same"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise RequestError(f"no method is called {self.method!r}: choose one of {', '.join(METHODS)}")
        least = 1 if self.method in WITH_BASE else 2
        if not least <= len(self.models) <= MOST_MODELS:
            raise RequestError(f"{self.method} merges {least} to {MOST_MODELS} models, not {len(self.models)}")
        if self.method == "slerp" and len(self.models) != 2:
            raise RequestError(f"slerp merges two models, not {len(self.models)}: merge two, or use linear")
        if (self.base is not None) != (self.method in WITH_BASE):
            need = "needs a base model, from which the others were trained" if self.base is None else "has no base"
            raise RequestError(f"{self.method} {need}: methods with a base are {', '.join(WITH_BASE)}")
        self._check_numbers()
        if self.tokenizer not in TOKENIZERS:
            raise RequestError(f"tokenizer must be one of {', '.join(TOKENIZERS)}, not {self.tokenizer!r}")
        if self.dtype not in (None, *DTYPES):
            raise RequestError(f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")

    def _check_numbers(self) -> None:
        if self.weights and self.method == "slerp":
            raise RequestError("slerp has t instead of weights: leave weights out")
        for name, given in (("weights", self.weights), ("densities", self.densities)):
            if given and len(given) not in (1, len(self.models)):
                raise RequestError(f"{name} must be one for all models or {len(self.models)}, not {len(given)}")
        numbers = [*(x for curve in self.weights for x in curve), *self.densities, *self.t, self.scale]
        if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers):
            raise RequestError("weights, densities, t and scale must be numbers")
        if self.densities and self.method not in WITH_DENSITY:
            raise RequestError(f"{self.method} has no densities: methods with some are {', '.join(WITH_DENSITY)}")
        if not all(0 < density <= 1 for density in self.densities):
            raise RequestError(f"densities must be above 0 and at most 1, not {list(self.densities)}")
        if not all(0 <= t <= 1 for t in self.t):
            raise RequestError(f"t must be between 0 (the first model) and 1 (the second), not {list(self.t)}")
        if not 0 <= self.seed < 1 << 63:
            raise RequestError(f"seed must be from 0 to 2**63 - 1, not {self.seed}")
        if self.normalize and self.weights:
            for place in (0.0, 0.25, 0.5, 0.75, 1.0):
                if abs(sum(value_at(self.weight_curve(i), place) for i in range(len(self.models)))) < 1e-6:
                    raise RequestError("the weights sum to 0, and cannot be divided by it: add normalize: false")

    def weight_curve(self, model: int) -> Curve:
        """Return the weights of a model over the layers."""
        return (1.0,) if not self.weights else self.weights[model if len(self.weights) > 1 else 0]

    def density(self, model: int) -> float:
        """Return the share of a model's task vector that stays."""
        if not self.densities:
            return 1.0 if self.method not in WITH_DENSITY else 0.5
        return self.densities[model if len(self.densities) > 1 else 0]


def require_used(method: str, names: Iterable[str]) -> None:
    """Raise `RequestError` if a number was named that ``method`` does not read."""
    for name in names:
        users = USERS.get(name)
        if users is not None and method in METHODS and method not in users:
            raise RequestError(f"{method} has no {name}: methods with one are {', '.join(users)}")


def value_at(curve: Sequence[float], place: float) -> float:
    """Return a curve's value at ``place``, 0 for the first layer and 1 for the last."""
    position = place * (len(curve) - 1)
    low = min(int(position), max(len(curve) - 2, 0))
    share = position - low
    high = min(low + 1, len(curve) - 1)
    return curve[low] * (1 - share) + curve[high] * share
