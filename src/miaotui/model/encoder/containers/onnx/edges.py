"""Follows a graph's values backward, through what does not change their meaning.

Owns producers, constants and the forms of quantization (QDQ pairs, dynamic and static integer products). Knows no
architecture. Invariant: following is bounded, whatever the graph, and a weight comes out as the float32 values that the
graph's own formula gives. Source: the ONNX operators, https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.onnx import OnnxGraph, OnnxNode

Floats = NDArray[np.float32]

MAX_STEPS = 200_000  # nodes looked at for one file, all walks together
MAX_DEPTH = 64
_SAME = {"Identity", "Dropout", "Cast"}
_SHAPES = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"}
# Least and most inputs of the operators that are looked into.
_INPUTS = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "MatMul", "Gather", "Reshape"), (2, 2)),
    **dict.fromkeys(("Sqrt", "Softmax", "Transpose", "Flatten", "Identity", "Cast", "DynamicQuantizeLinear"), (1, 1)),
    **dict.fromkeys(("ReduceMean", "Squeeze", "Unsqueeze"), (1, 2)),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "Gemm"), (2, 3)),
    "Dropout": (1, 3),
    "Slice": (1, 5),
    "Where": (3, 3),
    "MatMulInteger": (2, 4),
    "QLinearMatMul": (8, 8),
}


@dataclass(frozen=True, eq=False)
class ConstantMatrix:
    """A matrix of constants: its shape, and ``read``, which computes it in float32."""

    shape: tuple[int, int]
    read: Callable[[], Floats]

    @property
    def transposed(self) -> ConstantMatrix:
        """Return the transposed matrix."""
        return ConstantMatrix((self.shape[1], self.shape[0]), lambda: np.ascontiguousarray(self.read().T))


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """A product with constants: ``x @ weight.T + bias``; ``weight`` is [outputs, inputs]."""

    x: str
    weight: ConstantMatrix
    bias: Floats | None


@dataclass(frozen=True, eq=False)
class NormLayer:
    """A layer norm of ``x`` over the last axis."""

    x: str
    weight: Floats
    bias: Floats
    eps: float


class Edges:
    """The values of one graph; ``label`` names its file in errors."""

    def __init__(self, graph: OnnxGraph, label: str) -> None:
        self.graph = graph
        self.label = label
        self._producers = {name: node for node in graph.nodes for name in node.outputs if name}
        self._linears: dict[str, LinearLayer | None] = {}  # each is decoded once
        self._steps = 0
        for node in graph.nodes:
            self._require_inputs(node)

    def _require_inputs(self, node: OnnxNode) -> None:
        """Raise `ModelFormatError` for a node with too few or too many inputs for its operator."""
        least, most = _INPUTS.get(node.operator, (0, len(node.inputs)))
        if not least <= len(node.inputs) <= most:
            expected = f"{least}" if least == most else f"{least} to {most}"
            raise ModelFormatError(
                f"{self.label}: the node {node.name!r} ({node.operator}) has {len(node.inputs)} inputs, and takes "
                f"{expected}: the file is damaged; export or download it again"
            )

    def refused(self, what: str) -> UnsupportedModelError:
        """Return the error that says which part of the graph is not known."""
        return UnsupportedModelError(
            f"{self.label}: {what}; only exports of BERT, RoBERTa and DistilBERT are recognised: use the model's "
            "safetensors or a GGUF file"
        )

    def node(self, value: str) -> OnnxNode | None:
        """Return the node whose output ``value`` is; None for inputs and constants."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise self.refused("its graph is too large to follow")
        return self._producers.get(value)

    def plain(self, value: str, shapes: bool = False) -> str:
        """Return the value before casts and rounding to integers and back; with ``shapes`` before changes of shape."""
        for _ in range(MAX_DEPTH):
            node = self.node(value)
            if node is None or not node.inputs:
                return value
            if node.operator in _SAME or (shapes and node.operator in _SHAPES):
                value = node.inputs[0]
            elif node.operator == "DequantizeLinear" and self._is_rounded(node.inputs[0]):
                value = self._producers[node.inputs[0]].inputs[0]
            else:
                return value
        raise self.refused("a chain of its nodes is too long")

    def operands(self, value: str, operator: str) -> tuple[str, ...] | None:
        """Return the inputs of ``operator`` if it makes ``value``, and None otherwise."""
        node = self.node(self.plain(value))
        return node.inputs if node is not None and node.operator == operator else None

    def constant(self, value: str) -> NDArray[Any] | None:
        """Return a constant that stands in the file, or behind nodes that do not change it; None for others."""
        for _ in range(4):
            found = self.graph.constants.get(value)
            if found is not None:
                return found.data
            node = self.node(value)
            if node is None or node.operator not in _SAME:
                return None
            value = node.inputs[0]
        return None

    def scalar(self, value: str) -> float | None:
        """Return a constant of one number."""
        found = self.constant(value)
        return float(found.reshape(-1)[0]) if found is not None and found.size == 1 else None

    def vector(self, value: str) -> Floats | None:
        """Return a constant of one dimension as float32."""
        found = self.constant(value)
        if found is None or found.ndim != 1 or found.dtype.kind != "f":
            return None
        return np.ascontiguousarray(found, np.float32)

    def linear(self, value: str) -> LinearLayer | None:
        """Return the product with constants that makes ``value``, with its bias; None if it is none."""
        value = self.plain(value)
        if value not in self._linears:
            self._linears[value] = self._linear(value)
        return self._linears[value]

    def _linear(self, value: str) -> LinearLayer | None:
        added = self.operands(value, "Add")
        if added is not None:
            for product, other in (added, added[::-1]):
                bias = self.vector(other)
                found = self._product(product) if bias is not None else None
                if found is not None and found.bias is None:
                    return LinearLayer(found.x, found.weight, bias)
        return self._product(value)

    def norm(self, value: str) -> NormLayer | None:
        """Return the layer norm that makes ``value``, as one node or spelled out; None if it is none."""
        value = self.plain(value)
        node = self.node(value)
        if node is not None and node.operator == "LayerNormalization" and len(node.inputs) == 3:
            weight, bias = self.vector(node.inputs[1]), self.vector(node.inputs[2])
            eps = node.attributes.get("epsilon", 1e-5)
            if weight is not None and bias is not None and isinstance(eps, float):
                return NormLayer(self.plain(node.inputs[0]), weight, bias, eps)
        return self._spelled_norm(value)

    def _spelled_norm(self, value: str) -> NormLayer | None:
        scaled, bias = self._with_vector(value, "Add")
        divided, weight = self._with_vector(scaled, "Mul")
        quotient = self.operands(divided, "Div") if divided else None
        if quotient is None or weight is None or bias is None:
            return None
        centred, root = self.operands(quotient[0], "Sub"), self.operands(quotient[1], "Sqrt")
        variance = self.operands(root[0], "Add") if root else None
        if centred is None or variance is None:
            return None
        eps = next((found for found in map(self.scalar, variance) if found is not None), None)
        mean = self.operands(centred[1], "ReduceMean")
        if eps is None or mean is None or self.plain(mean[0]) != self.plain(centred[0]):
            return None
        return NormLayer(self.plain(centred[0]), weight, bias, eps)

    def _with_vector(self, value: str, operator: str) -> tuple[str, Floats | None]:
        """Return the other operand, and the constant vector, of ``operator``; ("", None) if it makes no ``value``."""
        found = self.operands(value, operator) if value else None
        for first, second in (found, found[::-1]) if found else ():
            vector = self.vector(second)
            if vector is not None:
                return first, vector
        return "", None

    def _product(self, value: str) -> LinearLayer | None:
        value = self.plain(value)
        node = self.node(value)
        if node is None:
            return None
        if node.operator == "MatMul":
            return self._layer(node.inputs[0], self.matrix(node.inputs[1]))
        if node.operator == "Gemm":
            return self._gemm(node)
        if node.operator == "Mul":
            return self._dynamic(node)
        if node.operator == "DequantizeLinear":
            return self._static(node)
        return None

    def _layer(self, x: str, matrix: ConstantMatrix | None, bias: Floats | None = None) -> LinearLayer | None:
        """Return the layer of a constant [inputs, outputs]."""
        return None if matrix is None else LinearLayer(self.plain(x), matrix.transposed, bias)

    def _gemm(self, node: OnnxNode) -> LinearLayer | None:
        attributes = node.attributes
        if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0):
            return None
        matrix = self.matrix(node.inputs[1])
        if matrix is not None and attributes.get("transB", 0):
            matrix = matrix.transposed
        bias = self.vector(node.inputs[2]) if len(node.inputs) > 2 else None
        return self._layer(node.inputs[0], matrix, bias)

    def _dynamic(self, node: OnnxNode) -> LinearLayer | None:
        """Return the layer of ``MatMulInteger`` over values that are rounded as they come (DynamicQuantizeLinear)."""
        for product, factor in (node.inputs, node.inputs[::-1]):
            whole = self.operands(product, "MatMulInteger")
            scales = self.operands(factor, "Mul")
            if whole is None or scales is None:
                continue
            source = self.node(whole[0])
            if source is None or source.operator != "DynamicQuantizeLinear":
                continue
            scale = next((found for name in scales if (found := self.constant(name)) is not None), None)
            zero = whole[3] if len(whole) > 3 else ""
            return self._layer(source.inputs[0], self.integers(whole[1], scale, zero, axis=1))
        return None

    def _static(self, node: OnnxNode) -> LinearLayer | None:
        """Return the layer of ``QLinearMatMul`` over values that are rounded by constants."""
        product = self.node(node.inputs[0])
        if product is None or product.operator != "QLinearMatMul" or len(product.inputs) < 8:
            return None
        source = self.node(product.inputs[0])
        if source is None or source.operator != "QuantizeLinear":
            return None
        weight = self.integers(product.inputs[3], self.constant(product.inputs[4]), product.inputs[5], axis=1)
        return self._layer(source.inputs[0], weight)

    def matrix(self, value: str) -> ConstantMatrix | None:
        """Return a constant matrix as the graph computes it, dequantized and transposed as its nodes say."""
        for _ in range(4):
            found = self.graph.constants.get(value)
            if found is not None:
                return _floats(found.data)
            node = self.node(value)
            if node is None or node.operator not in (*_SAME, "Transpose", "DequantizeLinear"):
                return None
            if node.operator == "DequantizeLinear":
                axis = node.attributes.get("axis", 1)
                return self.integers(*self._rounding(node), axis) if isinstance(axis, int) else None
            if node.operator == "Transpose":
                inner = self.matrix(node.inputs[0])
                return inner.transposed if inner and node.attributes.get("perm", (1, 0)) == (1, 0) else None
            value = node.inputs[0]
        return None

    def rounded_table(self, table: str, node: OnnxNode) -> ConstantMatrix | None:
        """Return a constant table whose chosen rows ``node`` dequantizes, all by one scale."""
        _, scale, zero = self._rounding(node)
        return self.integers(table, scale, zero, axis=0) if scale is not None and scale.size == 1 else None

    def integers(self, value: str, scale: NDArray[Any] | None, zero: str, axis: int) -> ConstantMatrix | None:
        """Return ``(integers - zero) * scale``; None where the sizes do not fit. ``zero``: "" for none."""
        found = self.graph.constants.get(value)
        offset = self.constant(zero) if zero else None
        if found is None or scale is None or (zero and offset is None):
            return None
        return dequantized(found.data, scale, offset, axis)

    def _rounding(self, node: OnnxNode) -> tuple[str, NDArray[Any] | None, str]:
        return node.inputs[0], self.constant(node.inputs[1]), node.inputs[2] if len(node.inputs) > 2 else ""

    def _is_rounded(self, value: str) -> bool:
        node = self._producers.get(value)
        return node is not None and node.operator == "QuantizeLinear"


def dequantized(
    integers: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None, axis: int
) -> ConstantMatrix | None:
    """Return ``(integers - zero) * scale`` in float32, per tensor or along ``axis``; None if the sizes do not fit."""
    if integers.ndim != 2 or integers.dtype.kind not in "iu" or scale.dtype.kind != "f":
        return None
    axis %= 2
    if scale.size not in (1, integers.shape[axis]) or (zero is not None and zero.size not in (1, scale.size)):
        return None
    along = (-1, 1) if axis == 0 else (1, -1)

    def read() -> Floats:
        whole = integers.astype(np.int32)
        if zero is not None:
            whole -= zero.astype(np.int32).reshape(along)
        floats: Floats = whole.astype(np.float32)
        floats *= scale.astype(np.float32).reshape(along)
        return floats

    return ConstantMatrix(integers.shape, read)


def _floats(data: NDArray[Any]) -> ConstantMatrix | None:
    if data.ndim != 2 or data.dtype.kind != "f":
        return None
    return ConstantMatrix(data.shape, lambda: np.ascontiguousarray(data, np.float32))
