"""A low-rank adapter as a value: for each matrix that it changes, two thin ones.

Owns the arithmetic: the product of a changed matrix is ``x @ W.T + (x @ down.T) @ up.T``, where ``up`` has the scale in
it. Knows no files (`from_peft`, `from_gguf`) and no engine. Invariant: names are canonical, shapes are those of the
model, and no rank exceeds `MAX_RANK`. Source: Hu et al. 2021, "LoRA", section 4.1; Kalajdzievski 2023, rsLoRA.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError, UnsupportedModelError

Array = NDArray[np.float32]

MAX_RANK = 256
EXPERTS = frozenset({"expert_gate", "expert_up", "expert_down"})
SHARED = frozenset({"shared_gate", "shared_up", "shared_down", "shared_router"})
LATENT = frozenset({"q_a", "kv_a", "k_rope"})
PER_REQUEST = frozenset({"q", "k", "v", "o", "gate", "up", "down", "router", "head"}) | EXPERTS | SHARED | LATENT


@dataclass(frozen=True, eq=False)
class LowRankPair:
    """Change of one matrix ``[outputs, inputs]``: ``down [rank, inputs]`` and ``up [outputs, rank]``, scaled."""

    down: Array
    up: Array

    @property
    def rank(self) -> int:
        """Return the number of rows between the two."""
        return len(self.down)

    def product(self, x: Array) -> Array:
        """Return what the adapter adds to a product, ``[n, inputs] -> [n, outputs]``."""
        added: Array = (x @ self.down.T) @ self.up.T
        return added

    def change(self) -> Array:
        """Return what the adapter adds to the matrix, ``[outputs, inputs]``."""
        matrix: Array = self.up @ self.down
        return matrix


class LowRankAdapter(Mapping[str, LowRankPair]):
    """The pairs of an adapter by canonical name (``layers.0.q``); ``label`` names it in errors.

    Of the matrices of experts each has its own: ``layers.0.expert_up.5`` is that of expert 5.
    """

    def __init__(self, label: str, pairs: Mapping[str, LowRankPair]) -> None:
        if not pairs:
            raise ModelFormatError(f"{label} changes nothing: it has no pair of lora matrices; get the adapter again")
        self.label = label
        self._pairs = dict(pairs)

    def __getitem__(self, name: str) -> LowRankPair:
        return self._pairs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def rank(self) -> int:
        """Return the largest rank of its pairs."""
        return max(pair.rank for pair in self._pairs.values())


def matrix_of(name: str) -> str:
    """Return which matrix of a layer a pair changes: the last part of its name without an expert's number."""
    parts = name.split(".")
    return parts[2] if len(parts) > 2 else parts[0]


def expert_pair(name: str, expert: int) -> str:
    """Return the name of the pair of one expert's part of the matrix ``name``."""
    return f"{name}.{expert}"


def require_per_request(pairs: Iterable[str]) -> None:
    """Raise `UnsupportedModelError` for a matrix that no pass can change for single rows.

    These are those of the inputs and streams of layers.
    """
    for name in pairs:
        if matrix_of(name) not in PER_REQUEST:
            raise UnsupportedModelError(
                f"the adapter changes {name}, which is not supported per request, as other matrices than "
                f"{', '.join(sorted(PER_REQUEST))} are not: merge it (miaotui merge-adapter), or train one for those"
            )
