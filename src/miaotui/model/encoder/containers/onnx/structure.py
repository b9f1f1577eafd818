"""Recognises an encoder by what its graph computes: embeddings, layers of attention and feed-forward, and its head.

Owns the forms of BERT's layers in ONNX exports. Knows no names of weights and no files. Invariant: every softmax of the
graph belongs to a recognised layer, and each layer reads what the layer before wrote; anything else is refused.
Source: Devlin et al. 2019, arXiv:1810.04805; torch's exporter (opsets 11 to 18) and ONNX Runtime's quantizer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isclose, sqrt

import numpy as np

from miaotui.model.config import MAX_LAYERS
from miaotui.model.encoder.config import Activation
from miaotui.model.encoder.containers.onnx.activations import activation_of
from miaotui.model.encoder.containers.onnx.edges import ConstantMatrix, Edges, LinearLayer, NormLayer

MAX_TERMS = 8  # of the sum of embeddings


@dataclass(frozen=True, eq=False)
class ExportedLayer:
    """One layer's weights, and its number of heads where the graph says it."""

    q: LinearLayer
    k: LinearLayer
    v: LinearLayer
    o: LinearLayer
    attn_norm: NormLayer
    up: LinearLayer
    down: LinearLayer
    ffn_norm: NormLayer
    activation: Activation
    heads: int | None


@dataclass(frozen=True, eq=False)
class ExportedHead:
    """Layers after the last states: ``output(activation(transform(x)))``; ``first_row``: of the first row only."""

    output: LinearLayer
    transform: LinearLayer | None = None
    activation: Activation | None = None
    first_row: bool = False


@dataclass(frozen=True, eq=False)
class ExportedEncoder:
    """Everything found in a graph. Tables are [rows, width]; ``counts_padding``: RoBERTa's positions."""

    words: ConstantMatrix
    positions: ConstantMatrix
    types: ConstantMatrix | None
    embed_norm: NormLayer
    layers: list[ExportedLayer] = field(default_factory=list)  # from the first to the last
    head: ExportedHead | None = None
    counts_padding: bool = False


def recognise(edges: Edges) -> ExportedEncoder:
    """Return the encoder that a graph computes. Raises `UnsupportedModelError` where it is none that is known."""
    states, head = _output(edges)
    layers: list[ExportedLayer] = []
    while (found := _layer(edges, states)) is not None:
        layers.append(found[0])
        states = found[1]
        if len(layers) > MAX_LAYERS:
            raise edges.refused("it has too many layers")
    softmaxes = sum(node.operator == "Softmax" for node in edges.graph.nodes)
    if not layers or softmaxes != len(layers):
        raise edges.refused(f"of its {softmaxes} attention layers {len(layers)} are of a known form")
    norm = edges.norm(states)
    if norm is None:
        raise edges.refused("its embeddings end in no layer norm")
    words, positions, types = _embeddings(edges, norm.x)
    counts = any(node.operator == "CumSum" for node in edges.graph.nodes)
    return ExportedEncoder(words, positions, types, norm, layers[::-1], head, counts)


def _output(edges: Edges) -> tuple[str, ExportedHead | None]:
    """Return the last states and the head, by the first output that has a known form."""
    for value in edges.graph.outputs:
        plain = edges.plain(value)
        if edges.norm(plain) is not None:
            return plain, None
        head = _head(edges, plain)
        if head is not None:
            return head
    raise edges.refused(f"its outputs {', '.join(edges.graph.outputs)[:200]} follow from no layer norm or classifier")


def _head(edges: Edges, value: str) -> tuple[str, ExportedHead] | None:
    output = edges.linear(value)
    if output is None:
        return None
    states, is_first = _row(edges, output.x)
    if edges.norm(states) is not None:
        return states, ExportedHead(output, first_row=is_first)
    found = activation_of(edges, output.x)
    transform = edges.linear(found[1]) if found else None
    if found is None or transform is None:
        return None
    states, is_first = _row(edges, transform.x)
    if not is_first or edges.norm(states) is None:
        return None
    return states, ExportedHead(output, transform, found[0], first_row=True)


def _row(edges: Edges, value: str) -> tuple[str, bool]:
    """Return the states of which ``value`` is the first row, or ``value`` itself."""
    plain = edges.plain(value)
    node = edges.node(plain)
    if node is not None and node.operator == "Gather" and node.attributes.get("axis", 0) == 1:
        index = edges.constant(node.inputs[1])
        if index is not None and index.size == 1 and not index.any():
            return edges.plain(node.inputs[0]), True
    if node is not None and node.operator in ("Squeeze", "Slice"):  # x[:, 0] as a slice
        states, _ = _row(edges, node.inputs[0])
        return states, edges.norm(states) is not None
    return plain, False


def _layer(edges: Edges, states: str) -> tuple[ExportedLayer, str] | None:
    """Return the layer that made ``states``, and the states it read; None if no layer made them."""
    ffn_norm = edges.norm(states)
    found = _residual(edges, ffn_norm.x) if ffn_norm else None
    if ffn_norm is None or found is None:
        return None
    down, middle = found
    attn_norm, inner = edges.norm(middle), activation_of(edges, down.x)
    if attn_norm is None or inner is None:
        return None
    activation, up_value = inner
    up, attended = edges.linear(up_value), _residual(edges, attn_norm.x)
    if up is None or attended is None or edges.plain(up.x) != middle:
        raise edges.refused("a feed-forward part reads other values than the norm before it")
    o, before = attended
    q, k, v, heads = _attention(edges, o.x)
    if not all(edges.plain(part.x) == before for part in (q, k, v)):
        raise edges.refused("an attention layer reads other values than its residual")
    return ExportedLayer(q, k, v, o, attn_norm, up, down, ffn_norm, activation, heads), before


def _residual(edges: Edges, value: str) -> tuple[LinearLayer, str] | None:
    """Return the linear layer and the other value that are added."""
    added = edges.operands(value, "Add")
    for first, second in (added, added[::-1]) if added else ():
        layer = edges.linear(first)
        if layer is not None and edges.linear(second) is None:
            return layer, edges.plain(second)
    return None


def _attention(edges: Edges, value: str) -> tuple[LinearLayer, LinearLayer, LinearLayer, int | None]:
    """Return queries, keys, values and the number of heads of the attention that made ``value``."""
    mixed = edges.operands(edges.plain(value, shapes=True), "MatMul")
    probabilities = _softmax(edges, mixed[0]) if mixed else None
    if mixed is None or probabilities is None:
        raise edges.refused("a layer is no attention of a known form")
    scores, factor = _scores(edges, probabilities)
    v, _, heads = _operand(edges, mixed[1])
    q, q_factor, _ = _operand(edges, scores[0])
    k, k_factor, _ = _operand(edges, scores[1])
    factors = (factor, q_factor, k_factor)
    if heads and not any(found is None for found in factors):
        total = float(np.prod([found for found in factors if found is not None]))
        if not isclose(total, 1 / sqrt(v.weight.shape[0] / heads), rel_tol=1e-3):
            raise edges.refused(f"its attention scores are scaled by {total:g}, not by the heads' width")
    return q, k, v, heads


def _softmax(edges: Edges, value: str) -> str | None:
    """Return what goes into the softmax that made ``value``, which padding may have set to zero since."""
    plain = edges.plain(value)
    node = edges.node(plain)
    if node is not None and node.operator == "Where":
        found = [inner for name in node.inputs[1:] if (inner := _softmax(edges, name)) is not None]
        return found[0] if found else None
    return node.inputs[0] if node is not None and node.operator == "Softmax" else None


def _scores(edges: Edges, value: str) -> tuple[tuple[str, str], float | None]:
    """Return the two operands of the product that made the scores, and their factor (None: computed)."""
    factor: float | None = 1.0
    for _ in range(6):
        value = edges.plain(value)
        node = edges.node(value)
        if node is None:
            break
        if node.operator == "MatMul":
            return (node.inputs[0], node.inputs[1]), factor
        if node.operator in ("Mul", "Div"):
            value, step = _scaled(edges, node.operator, node.inputs)
            factor = None if factor is None or step is None else factor * step
        elif node.operator in ("Add", "Where"):  # the mask of padding
            inputs = node.inputs if node.operator == "Add" else node.inputs[1:]
            value = next((name for name in inputs if _reaches_product(edges, name)), "")
        else:
            break
    raise edges.refused("attention scores are no product of queries and keys")


def _reaches_product(edges: Edges, value: str) -> bool:
    for _ in range(4):
        value = edges.plain(value)
        node = edges.node(value)
        if node is None:
            return False
        if node.operator == "MatMul":
            return True
        if node.operator not in ("Mul", "Div", "Add"):
            return False
        value = next((name for name in node.inputs if edges.constant(name) is None), "")
    return False


def _scaled(edges: Edges, operator: str, inputs: tuple[str, ...]) -> tuple[str, float | None]:
    """Return the value that is scaled, and the factor; None where a square root in the graph gives it."""
    for value, other in (inputs, inputs[::-1]):
        number = edges.scalar(other)
        if number is not None and number != 0:
            return value, number if operator == "Mul" else 1 / number
        node = edges.node(edges.plain(other))
        if node is not None and node.operator == "Sqrt":
            return value, None
    raise edges.refused("a value in its attention is scaled by another value")


def _operand(edges: Edges, value: str) -> tuple[LinearLayer, float | None, int | None]:
    """Return the linear layer behind queries, keys or values, its factor, and the heads it is cut into."""
    factor: float | None = 1.0
    shape: list[int | None] = []
    for _ in range(12):
        value = edges.plain(value)
        layer = edges.linear(value)
        if layer is not None:
            return layer, factor, _heads(shape, layer.weight.shape[0])
        node = edges.node(value)
        if node is None or not node.inputs:
            break
        if node.operator in ("Mul", "Div"):
            value, step = _scaled(edges, node.operator, node.inputs)
            factor = None if factor is None or step is None else factor * step
        elif node.operator in ("Transpose", "Reshape", "Squeeze", "Unsqueeze"):
            if node.operator == "Reshape" and len(found := _static(edges, node.inputs[1])) == 4:
                shape = found
            value = node.inputs[0]
        else:
            break
    raise edges.refused("queries, keys or values come from no linear layer")


def _heads(shape: list[int | None], width: int) -> int | None:
    """Return the number of heads in a shape [texts, rows, heads, width of a head], of which one may be left open."""
    heads, each = shape[2:] if shape else (None, None)
    if each is not None and each > 0 and width % each == 0:
        return width // each
    return heads if heads is not None and heads > 0 and width % heads == 0 else None


def _static(edges: Edges, shape: str) -> list[int | None]:
    """Return a shape's sizes, None where the graph computes them."""
    found = edges.constant(shape)
    if found is not None and found.ndim == 1 and found.dtype.kind == "i":
        return [int(size) for size in found[:8]]
    parts = edges.operands(shape, "Concat")
    sizes: list[int | None] = []
    for part in (parts or ())[:8]:
        number = edges.scalar(edges.plain(part, shapes=True))
        sizes.append(None if number is None else int(number))
    return sizes


def _embeddings(edges: Edges, value: str) -> tuple[ConstantMatrix, ConstantMatrix, ConstantMatrix | None]:
    """Return the tables of words, positions and segments whose rows are added."""
    terms, waiting = [], [value]
    while waiting:
        at = edges.plain(waiting.pop())
        added = edges.operands(at, "Add")
        if added is None:
            terms.append(_table(edges, at))
        elif len(terms) + len(waiting) < MAX_TERMS:
            waiting += added
        else:
            raise edges.refused("its embeddings have too many terms")
    words = [table for table, index in terms if index == "input_ids"]
    types = [table for table, index in terms if index == "token_type_ids"]
    rest = [table for table, index in terms if index not in ("input_ids", "token_type_ids")]
    if len(rest) == 2 and not types:  # segments are all 0 inside the graph
        rest.sort(key=lambda table: table.shape[0])
        types = [rest.pop(0)]
    if len(words) != 1 or len(rest) != 1 or len(types) > 1:
        raise edges.refused("its embeddings are no sum of words, positions and segments")
    return words[0], rest[0], types[0] if types else None


def _table(edges: Edges, value: str) -> tuple[ConstantMatrix, str]:
    """Return a constant table and the value that picks its rows."""
    node = edges.node(value)
    quantized = node if node is not None and node.operator == "DequantizeLinear" else None
    gather = edges.node(node.inputs[0]) if quantized and node else node
    if gather is None or gather.operator != "Gather" or gather.attributes.get("axis", 0) != 0:
        raise edges.refused("a part of its embeddings is no table")
    table = edges.rounded_table(gather.inputs[0], quantized) if quantized else edges.matrix(gather.inputs[0])
    if table is None:
        raise edges.refused("a table of its embeddings is no matrix of numbers")
    return table, edges.plain(gather.inputs[1])
