"""Multinomial logistic regression over vectors, by limited-memory BFGS in NumPy.

Owns the loss and its minimiser. Knows neither texts nor labels' names. Invariant: the loss is convex, so the start
changes how long a fit takes and not where it ends. Source: Nocedal and Wright, Numerical Optimization, 2nd edition,
algorithms 7.4 (two-loop recursion) and 3.1 (backtracking).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Loss = Callable[[Floats], tuple[float, Floats]]  # of all parameters, flat: the loss and its gradient
MEMORY = 10  # steps that the approximation of the curvature remembers
MAX_STEPS = 200
TOLERANCE = 1e-4  # greatest component of the gradient at which a fit ends, of the mean loss
_SUFFICIENT = 1e-4  # share of the promised decrease that a step must bring
_SHORTEST = 1e-6


class Linear(NamedTuple):
    """Linear layer: ``weights [labels, d]`` and ``bias [labels]``, float32."""

    weights: Floats
    bias: Floats

    @property
    def width(self) -> int:
        """Return the length of a vector."""
        return int(self.weights.shape[1])

    def logits(self, vectors: Floats) -> Floats:
        """Return logits ``[n, labels]`` of ``vectors [n, d]``; a row depends on no other."""
        return row_products(vectors, self.weights) + self.bias


def row_products(rows: Floats, weights: Floats) -> Floats:
    """Return ``rows @ weights.T`` by NumPy's own loops, row by row.

    BLAS sums a row in an order that depends on its place among others and on the number of threads.
    """
    found = np.empty((len(rows), len(weights)), np.float32)
    for row, out in zip(rows, found, strict=True):
        np.einsum("k,ok->o", row, weights, out=out)
    return found


def fit_logistic(
    vectors: Floats,
    targets: NDArray[np.int64],
    n_labels: int,
    penalty: float,
    *,
    weight: NDArray[np.float32] | None = None,
    start: Linear | None = None,
) -> Linear:
    """Fit a linear layer to ``targets [n]`` in ``[0, n_labels)`` of ``vectors [n, d]``.

    The loss is the mean negative log-likelihood, weighted by ``weight [n]``, plus ``penalty / 2`` times the sum of
    squared weights; the bias is free. ``start`` is a layer to begin with.
    """
    n, width = vectors.shape
    share = np.full(n, 1.0 / n, np.float32) if weight is None else (weight / weight.sum()).astype(np.float32)
    rows = np.arange(n)

    def loss(flat: Floats) -> tuple[float, Floats]:
        layer = flat.reshape(n_labels, width + 1)
        logits = vectors @ layer[:, :width].T + layer[:, width]
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[rows, targets].copy()
        np.exp(logits, out=logits)
        total = logits.sum(axis=1)
        value = float(share @ (np.log(total) - chosen))
        logits /= total[:, None]
        logits[rows, targets] -= 1.0
        logits *= share[:, None]
        gradient = np.empty_like(layer)
        gradient[:, :width] = logits.T @ vectors + penalty * layer[:, :width]
        gradient[:, width] = logits.sum(axis=0)
        value += 0.5 * penalty * float(np.square(layer[:, :width], dtype=np.float64).sum())
        return value, gradient.ravel()

    first = np.zeros((n_labels, width + 1), np.float32)
    if start is not None:
        first[: len(start.bias), :width], first[: len(start.bias), width] = start.weights, start.bias
    found = minimize(loss, first.ravel()).reshape(n_labels, width + 1)
    return Linear(np.ascontiguousarray(found[:, :width]), np.ascontiguousarray(found[:, width]))


def minimize(loss: Loss, start: Floats) -> Floats:
    """Return the parameters at which a smooth convex ``loss`` is least, near enough for `TOLERANCE`."""
    at = start
    value, gradient = loss(at)
    memory: deque[tuple[Floats, Floats, float]] = deque(maxlen=MEMORY)  # steps, changes of gradient, 1 / product
    for _ in range(MAX_STEPS):
        if float(np.abs(gradient).max(initial=0.0)) <= TOLERANCE:
            break
        direction = _direction(gradient, memory)
        slope = float(direction @ gradient)
        if slope >= 0.0:  # rounding has spoilt the curvature: begin again with the gradient
            memory.clear()
            direction, slope = -gradient, -float(gradient @ gradient)
        length = 1.0 if memory else min(1.0, 1.0 / float(np.sqrt(-slope)))
        while True:
            there = at + np.float32(length) * direction
            new_value, new_gradient = loss(there)
            if new_value <= value + _SUFFICIENT * length * slope:
                break
            length /= 2.0
            if length < _SHORTEST:
                return at
        step, change = there - at, new_gradient - gradient
        product = float(step @ change)
        if product > 0.0:
            memory.append((step, change, 1.0 / product))
        at, value, gradient = there, new_value, new_gradient
    return at


def _direction(gradient: Floats, memory: deque[tuple[Floats, Floats, float]]) -> Floats:
    """Return the direction of descent: the gradient by the inverse of the remembered curvature, negated."""
    direction = -gradient
    factors = []
    for step, change, inverse in reversed(memory):
        factor = inverse * float(step @ direction)
        factors.append(factor)
        direction = direction - np.float32(factor) * change
    if memory:
        _, change, inverse = memory[-1]
        direction = direction * np.float32(1.0 / (inverse * float(change @ change)))
    for (step, change, inverse), factor in zip(memory, reversed(factors), strict=True):
        direction = direction + np.float32(factor - inverse * float(change @ direction)) * step
    return direction
