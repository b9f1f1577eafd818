"""Writes ONNX files as torch's exporter and ONNX Runtime's quantizer do: messages, and small BERT graphs."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = {
    np.dtype("f4"): 1,
    np.dtype("u1"): 2,
    np.dtype("i1"): 3,
    np.dtype("i4"): 6,
    np.dtype("i8"): 7,
    np.dtype("?"): 9,
    np.dtype("f2"): 10,
    np.dtype("f8"): 11,
}


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(index: int, value: int) -> bytes:
    return varint(index << 3) + varint(value)


def block(index: int, content: bytes | str) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return varint(index << 3 | 2) + varint(len(raw)) + raw


def tensor(name: str, array: NDArray[Any], *, listed: bool = False) -> bytes:
    """A TensorProto: raw bytes, or numbers written one by one."""
    out = b"".join(number(1, size) for size in array.shape) + number(2, KINDS[array.dtype]) + block(8, name)
    if not listed:
        return out + block(9, np.ascontiguousarray(array).tobytes())
    if array.dtype == np.float32:
        return out + block(4, array.tobytes())
    packed = b"".join(varint(int(value)) for value in array.reshape(-1))
    return out + block(7 if array.dtype == np.int64 else 5, packed)


def attribute(name: str, value: Any) -> bytes:
    out = block(1, name)
    if isinstance(value, float):
        return out + varint(2 << 3 | 5) + struct.pack("<f", value) + number(20, 1)
    if isinstance(value, int):
        return out + number(3, value) + number(20, 2)
    if isinstance(value, str):
        return out + block(4, value) + number(20, 3)
    if isinstance(value, bytes):
        return out + block(5, value) + number(20, 4)
    return out + b"".join(number(8, each) for each in value) + number(20, 7)


def node(operator: str, inputs: Iterable[str], outputs: Iterable[str], domain: str = "", **attributes: Any) -> bytes:
    out = b"".join(block(1, name) for name in inputs) + b"".join(block(2, name) for name in outputs)
    out += block(4, operator) + b"".join(block(5, attribute(name, value)) for name, value in attributes.items())
    return out + (block(7, domain) if domain else b"")


def model(
    nodes: Sequence[bytes],
    constants: Sequence[bytes],
    inputs: Sequence[str],
    outputs: Sequence[str],
    extra: bytes = b"",
) -> bytes:
    graph = b"".join(block(1, each) for each in nodes) + block(2, "graph")
    graph += b"".join(block(5, each) for each in constants)
    graph += b"".join(block(11, block(1, name)) for name in inputs)
    graph += b"".join(block(12, block(1, name)) for name in outputs)
    return number(1, 8) + block(2, "tests") + block(7, graph) + block(8, number(2, 17)) + extra


@dataclass
class Bert:
    """A BERT graph of random weights. ``made`` holds what a reader must find, by transformers' names."""

    products: str = "float"  # float, gemm, dynamic, qdq, static
    per_channel: bool = False
    norms: str = "spelled"  # spelled, node
    act: str = "gelu"
    family: str = "bert"
    head: str = ""  # sequence, token
    layers: int = 2
    hidden: int = 64
    heads: int = 2
    ffn: int = 96
    vocabulary: int = 20
    positions: int = 12
    labels: int = 3
    scale: float | None = None  # of attention; None: right
    heads_in_shape: bool = True
    domain: str = ""  # of one node
    skip_norm: bool = False  # leave a residual out
    bias_left_out: bool = False  # of the classifier
    seed: int = 0
    made: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._count = 0

    def build(self) -> bytes:
        """The file's bytes, the same each time."""
        self.__post_init__()
        x = self._embeddings()
        for layer in range(self.layers):
            x = self._layer(x, layer)
        inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if self.family == "bert" else [])]
        return model(self._nodes, self._constants, inputs, [self._head(x)])

    def _value(self) -> str:
        self._count += 1
        return f"v{self._count}"

    def _op(self, operator: str, *inputs: str, **attributes: Any) -> str:
        out = self._value()
        self._nodes.append(node(operator, inputs, [out], **attributes))
        return out

    def _constant(self, array: Any, dtype: str = "f4", name: str = "") -> str:
        name = name or self._value()
        self._constants.append(tensor(name, np.asarray(array, np.dtype(dtype))))
        return name

    def _floats(self, *shape: int) -> NDArray[np.float32]:
        return self._random.normal(0, 0.2, shape).astype(np.float32)

    def _quantized(self, shape: tuple[int, int], channels: int | None) -> tuple[NDArray[Any], Any, Any, Any]:
        """Integers, scale, zero point and the floats that they stand for; scales along the last axis if asked."""
        n = channels or 1
        whole = self._random.integers(-100, 100, shape).astype(np.int8)
        scale = self._random.uniform(0.001, 0.01, n).astype(np.float32)
        zero = self._random.integers(-5, 5, n).astype(np.int8)
        floats = (whole.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * scale
        return (whole, scale, zero, floats) if channels else (whole, scale[0], zero[0], floats)

    def _linear(self, x: str, name: str, outputs: int, inputs: int) -> str:
        bias = self.made[f"{name}.bias"] = self._floats(outputs)
        shape = (inputs, outputs)
        if self.products in ("float", "gemm"):
            weight = self._floats(outputs, inputs)
            self.made[f"{name}.weight"] = weight
            if self.products == "gemm":
                left_out = self.bias_left_out and name == "classifier"
                added = [] if left_out else [self._constant(bias)]
                return self._op("Gemm", x, self._constant(weight), *added, transB=1, alpha=1.0, beta=1.0)
            product = self._op("MatMul", x, self._constant(weight.T))
            return self._op("Add", self._constant(bias), product)
        whole, scale, zero, floats = self._quantized(shape, outputs if self.per_channel else None)
        self.made[f"{name}.weight"] = floats.T
        names = [self._constant(whole, "i1"), self._constant(scale), self._constant(zero, "i1")]
        return self._op("Add", self._integers(x, names), self._constant(bias))

    def _integers(self, x: str, weight: list[str]) -> str:
        whole, scale, zero = weight
        if self.products == "dynamic":
            rounded, x_scale, x_zero = self._value(), self._value(), self._value()
            self._nodes.append(node("DynamicQuantizeLinear", [x], [rounded, x_scale, x_zero]))
            product = self._op("Cast", self._op("MatMulInteger", rounded, whole, x_zero, zero), to=1)
            return self._op("Mul", product, self._op("Mul", x_scale, scale))
        by = [self._constant(0.02), self._constant(128, "u1")]
        rounded = self._op("QuantizeLinear", x, *by)
        if self.products == "static":
            product = self._op("QLinearMatMul", rounded, *by, whole, scale, zero, *by)
            return self._op("DequantizeLinear", product, *by)
        axis = {"axis": 1} if self.per_channel else {}
        weights = self._op("DequantizeLinear", whole, scale, zero, **axis)
        product = self._op("MatMul", self._op("DequantizeLinear", rounded, *by), weights)
        return self._op("DequantizeLinear", self._op("QuantizeLinear", product, *by), *by)

    def _norm(self, x: str, name: str) -> str:
        weight = self.made[f"{name}.weight"] = self._floats(self.hidden) + 1
        bias = self.made[f"{name}.bias"] = self._floats(self.hidden)
        if self.norms == "node":
            inputs = (x, self._constant(weight), self._constant(bias))
            return self._op("LayerNormalization", *inputs, axis=-1, epsilon=1e-12)
        centred = self._op("Sub", x, self._op("ReduceMean", x, axes=[-1]))
        variance = self._op("ReduceMean", self._op("Pow", centred, self._constant(2.0)), axes=[-1])
        root = self._op("Sqrt", self._op("Add", variance, self._constant(1e-12)))
        scaled = self._op("Mul", self._op("Div", centred, root), self._constant(weight))
        return self._op("Add", scaled, self._constant(bias))

    def _table(self, name: str, rows: int, index: str) -> str:
        key = f"{self._prefix}.embeddings.{name}.weight"
        if self.products == "dynamic":
            whole, scale, zero, floats = self._quantized((rows, self.hidden), None)
            self.made[key] = floats
            chosen = self._op("Gather", self._constant(whole, "i1"), index)
            return self._op("DequantizeLinear", chosen, self._constant(scale), self._constant(zero, "i1"))
        table = self.made[key] = self._floats(rows, self.hidden)
        return self._op("Gather", self._constant(table), index)

    @property
    def _prefix(self) -> str:
        return self.family

    def _embeddings(self) -> str:
        total = self._table("word_embeddings", self.vocabulary, "input_ids")
        if self.family == "bert":
            total = self._op("Add", total, self._table("token_type_embeddings", 2, "token_type_ids"))
        if self.family == "roberta":
            places = self._op("CumSum", "input_ids", self._constant(1, "i8"))
            total = self._op("Add", total, self._table("token_type_embeddings", 1, self._constant([0], "i8")))
        else:
            places = self._op("Slice", self._constant(np.arange(self.positions)[None], "i8"))
        total = self._op("Add", total, self._table("position_embeddings", self.positions, places))
        return self._norm(total, f"{self._prefix}.embeddings.LayerNorm")

    def _layer(self, x: str, index: int) -> str:
        if self.family == "distilbert":
            stem = f"distilbert.transformer.layer.{index}"
            q, k, v, o = (f"{stem}.attention.{name}_lin" for name in ("q", "k", "v", "out"))
            up, down = f"{stem}.ffn.lin1", f"{stem}.ffn.lin2"
            first, second = f"{stem}.sa_layer_norm", f"{stem}.output_layer_norm"
        else:
            stem = f"{self._prefix}.encoder.layer.{index}"
            q, k, v = (f"{stem}.attention.self.{name}" for name in ("query", "key", "value"))
            o, up, down = (f"{stem}.{name}.dense" for name in ("attention.output", "intermediate", "output"))
            first, second = f"{stem}.attention.output.LayerNorm", f"{stem}.output.LayerNorm"
        attended = self._linear(self._attention(x, q, k, v), o, self.hidden, self.hidden)
        middle = self._norm(attended if self.skip_norm else self._op("Add", attended, x), first)
        inner = self._activation(self._linear(middle, up, self.ffn, self.hidden))
        return self._norm(self._op("Add", self._linear(inner, down, self.hidden, self.ffn), middle), second)

    def _attention(self, x: str, *names: str) -> str:
        size = self.hidden // self.heads
        shape = [0, -1, self.heads, size] if self.heads_in_shape else [0, -1, -1, -1]
        q, k, v = (
            self._op(
                "Transpose",
                self._op("Reshape", self._linear(x, name, self.hidden, self.hidden), self._constant(shape, "i8")),
                perm=[0, 2, 3, 1] if index == 1 else [0, 2, 1, 3],
            )
            for index, name in enumerate(names)
        )
        factor = size**-0.5 if self.scale is None else self.scale
        scores = self._op("Mul", self._op("MatMul", q, k), self._constant(factor))
        masked = self._op("Add", scores, self._op("Mul", "attention_mask", self._constant(-1e4)))
        mixed = self._op("MatMul", self._op("Softmax", masked, axis=-1, domain=self.domain), v)
        back = self._op("Transpose", mixed, perm=[0, 2, 1, 3])
        return self._op("Reshape", back, self._constant([0, -1, self.hidden], "i8"))

    def _activation(self, x: str) -> str:
        if self.act == "gelu":
            inner = self._op("Erf", self._op("Div", x, self._constant(np.sqrt(2))))
            scaled = self._op("Mul", x, self._op("Add", inner, self._constant(1)))
            return self._op("Mul", scaled, self._constant(0.5))
        if self.act == "gelu_tanh":
            cube = self._op("Mul", self._op("Pow", x, self._constant(3.0)), self._constant(0.044715))
            inner = self._op("Mul", self._op("Add", x, cube), self._constant(np.sqrt(2 / np.pi)))
            outer = self._op("Add", self._op("Tanh", inner), self._constant(1))
            return self._op("Mul", self._op("Mul", x, self._constant(0.5)), outer)
        if self.act == "silu":
            return self._op("Mul", x, self._op("Sigmoid", x))
        return self._op({"relu": "Relu", "node": "Gelu", "unknown": "Elu"}[self.act], x)

    def _head(self, x: str) -> str:
        if self.head == "token":
            return self._linear(x, "classifier", self.labels, self.hidden)
        if self.head == "sequence":
            transform, output, act = {
                "bert": ("bert.pooler.dense", "classifier", "Tanh"),
                "roberta": ("classifier.dense", "classifier.out_proj", "Tanh"),
                "distilbert": ("pre_classifier", "classifier", "Relu"),
            }[self.family]
            first = self._op("Gather", x, self._constant(0, "i8"), axis=1)
            inner = self._op(act, self._linear(first, transform, self.hidden, self.hidden))
            return self._linear(inner, output, self.labels, self.hidden)
        return x
