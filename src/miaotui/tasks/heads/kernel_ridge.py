"""Kernel ridge regression on labels: closed form, with the exact answer for every example that is left out.

Owns the kernel, the fit for many penalties at once, and the layer that it gives. Knows neither texts nor labels'
names. Invariant: the held-out row of an example is what a fit without that example would have answered. Sources:
Rifkin and Lippert 2007, "Notes on regularized least squares" (one decomposition for all penalties, leave-one-out in
closed form); the kernel is Gaussian, since ``|a - b|^2 = 2 - 2 cos`` for unit vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.tasks.heads.logistic import row_products

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Targets = NDArray[np.int64]


class KernelLayer(NamedTuple):
    """Layer over unit vectors: ``weights [labels, n]`` of the likeness to ``landmarks [n, d]``, ``bias [labels]``.

    Likeness is ``exp(gamma * (cosine - 1))``. All float32.
    """

    landmarks: Floats
    weights: Floats
    bias: Floats
    gamma: float

    @property
    def width(self) -> int:
        """Return the length of a vector."""
        return int(self.landmarks.shape[1])

    def logits(self, vectors: Floats) -> Floats:
        """Return logits ``[n, labels]`` of ``vectors [n, d]``; a row depends on no other."""
        cosines = row_products(vectors, self.landmarks)
        likeness = np.exp(np.float32(self.gamma) * (cosines - np.float32(1)))
        return row_products(likeness, self.weights) + self.bias


class KernelFit(NamedTuple):
    """Fit with one penalty, and the logits ``[n, labels]`` of each example as a fit without it would give them."""

    penalty: float
    layer: KernelLayer
    held_out: Doubles


def kernel_matrix(vectors: Floats, gamma: float) -> Doubles:
    """Return the likeness of all pairs, ``[n, n]``."""
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    return np.asarray(np.exp(gamma * (cosines - 1.0)))


def fit_kernel(
    vectors: Floats, targets: Targets, n_labels: int, gamma: float, penalty: float, weight: Floats
) -> KernelLayer:
    """Fit a layer to ``targets [n]`` of unit vectors ``[n, d]``; examples count by ``weight [n]``."""
    root, bias, wanted = _scaled(targets, n_labels, weight)
    matrix = root[:, None] * kernel_matrix(vectors, gamma) * root
    matrix[np.diag_indices_from(matrix)] += penalty
    found: Doubles = np.asarray(np.linalg.solve(matrix, wanted), np.float64)
    return _layer(vectors, root, bias, found, gamma)


def fit_kernels(
    vectors: Floats, targets: Targets, n_labels: int, gamma: float, penalties: Sequence[float], weight: Floats
) -> Iterator[KernelFit]:
    """Yield the fit for each of ``penalties``, by one decomposition; see `fit_kernel`."""
    root, bias, wanted = _scaled(targets, n_labels, weight)
    values, basis = np.linalg.eigh(root[:, None] * kernel_matrix(vectors, gamma) * root)
    values = np.maximum(values, 0.0)
    turned = basis.T @ wanted
    for penalty in penalties:
        found = basis @ (turned / (values + penalty)[:, None])
        diagonal = np.square(basis) @ (1.0 / (values + penalty))
        held_out = (wanted - found / diagonal[:, None]) / root[:, None] + bias
        yield KernelFit(penalty, _layer(vectors, root, bias, found, gamma), held_out)


def _scaled(targets: Targets, n_labels: int, weight: Floats) -> tuple[Doubles, Doubles, Doubles]:
    """Return the roots of the weights, equal shares of the labels, and scaled targets ``[n, labels]``."""
    share = weight.astype(np.float64) / float(weight.mean(dtype=np.float64))
    bias = np.full(n_labels, 1.0 / n_labels)
    root = np.sqrt(share)
    wanted = np.eye(n_labels)[targets] - bias
    return root, bias, root[:, None] * wanted


def _layer(vectors: Floats, root: Doubles, bias: Doubles, found: Doubles, gamma: float) -> KernelLayer:
    weights = np.ascontiguousarray((root[:, None] * found).T, np.float32)
    return KernelLayer(vectors, weights, bias.astype(np.float32), gamma)
