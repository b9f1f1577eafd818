"""Activation functions of encoders in float32 NumPy, by the names of `EncoderConfig.activation`.

Knows no model. Invariant: "gelu" is the exact one, of the error function; the approximation is "gelu_tanh".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from miaotui.model.encoder.config import Activation
from miaotui.model.formulas import gelu_tanh, silu

Array = NDArray[np.float32]


def gelu(x: Array) -> Array:
    """Return ``x * (1 + erf(x / sqrt(2))) / 2`` (Hendrycks and Gimpel, 2016)."""
    y: Array = x * np.float32(0.5) * (1 + erf(x * np.float32(math.sqrt(0.5))))
    return y


def erf(x: Array) -> Array:
    """Return the error function, within one unit in the last place of float32.

    Rational approximations in float64 (Cody, 1969): of erf(x) / x in x^2 up to 0.46875, of erfc(x) * exp(x^2) in x up
    to 4. Beyond that erf is 1 in float32.
    """
    z = np.minimum(np.abs(x.astype(np.float64)), 4.0)
    near = z * np.polyval(_NEAR[0], z * z) / np.polyval(_NEAR[1], z * z)
    far = 1 - np.exp(-z * z) * np.polyval(_FAR[0], z) / np.polyval(_FAR[1], z)
    y: Array = np.copysign(np.where(z <= 0.46875, near, far), x).astype(np.float32)
    return y


# Coefficients of numerator and denominator, highest power first.
_NEAR = (
    (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
_FAR = (
    (
        2.15311535474403846e-8,
        5.64188496988670089e-1,
        8.88314979438837594,
        6.61191906371416295e1,
        2.98635138197400131e2,
        8.81952221241769090e2,
        1.71204761263407058e3,
        2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0,
        1.57449261107098347e1,
        1.17693950891312499e2,
        5.37181101862009858e2,
        1.62138957456669019e3,
        3.29079923573345963e3,
        4.36261909014324716e3,
        3.43936767414372164e3,
        1.23033935480374942e3,
    ),
)


def relu(x: Array) -> Array:
    """Return the larger of x and 0."""
    y: Array = np.maximum(x, np.float32(0))
    return y


ACTIVATIONS: Mapping[Activation, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "relu": relu,
    "tanh": np.tanh,
}
