"""Recognises an activation function by its values at a few points, however its formula is written.

Owns a reading of arithmetic on one number, by the operators that activations consist of. Knows no graph beside the few
nodes between two linear layers. Invariant: an unknown operator, or another function, is None.
Source: Hendrycks & Gimpel 2016, arXiv:1606.08415 (GELU, exact and by tanh).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.onnx import OnnxNode
from miaotui.model.encoder.activations import ACTIVATIONS, erf
from miaotui.model.encoder.config import Activation
from miaotui.model.encoder.containers.onnx.edges import Edges

POINTS = np.linspace(-5.0, 5.0, 41)
TOLERANCE = 2e-4  # GELU and its form by tanh differ by 5e-4
MAX_NODES = 24
Numbers = NDArray[np.float64]

_UNARY: Mapping[str, Callable[[Numbers], Numbers]] = {
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Relu": lambda x: np.maximum(x, 0.0),
    "Sqrt": np.sqrt,
}
_BINARY: Mapping[str, Callable[[Numbers, Numbers], Numbers]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
}


def activation_of(edges: Edges, value: str) -> tuple[Activation, str] | None:
    """Return the function that made ``value``, and the linear layer's output it was given; None if it is unknown."""
    found = _Formula(edges)
    with np.errstate(all="ignore"):
        values = found.at(value)
    if values is None or found.source is None:
        return None
    for name, function in ACTIVATIONS.items():
        if np.allclose(values, function(POINTS.astype(np.float32)), rtol=0, atol=TOLERANCE):
            return name, found.source
    return None


class _Formula:
    """Values of a formula of one variable: the output of a linear layer, which is found on the way."""

    def __init__(self, edges: Edges) -> None:
        self._edges = edges
        self._seen = 0
        self.source: str | None = None

    def at(self, value: str) -> Numbers | None:
        """Return the formula's values at `POINTS`; None if it has another variable or operator."""
        value = self._edges.plain(value)
        self._seen += 1
        if self._seen > MAX_NODES:
            return None
        number = self._edges.scalar(value)
        if number is not None:
            return np.full_like(POINTS, number)
        if value == self.source:
            return POINTS
        node = self._edges.node(value)
        if node is None or self._edges.linear(value) is not None:
            if self.source is not None or node is None:
                return None
            self.source = value
            return POINTS
        return self._computed(node)

    def _computed(self, node: OnnxNode) -> Numbers | None:
        inputs = [self.at(name) for name in node.inputs[:2]]
        known = [found for found in inputs if found is not None]
        if not known or len(known) != len(inputs):
            return None
        if node.operator in _UNARY:
            return _UNARY[node.operator](known[0])
        if node.operator == "Erf":
            return erf(known[0].astype(np.float32)).astype(np.float64)
        if node.operator == "Gelu":
            tanh = node.attributes.get("approximate") == "tanh"
            return ACTIVATIONS["gelu_tanh" if tanh else "gelu"](known[0].astype(np.float32)).astype(np.float64)
        if node.operator in _BINARY and len(known) == 2:
            return _BINARY[node.operator](*known)
        return None
