"""Holds what is read from ONNX exports to ONNX Runtime: the graph as it is, and the graph with its integers as floats.

Needs ``onnx`` and ``onnxruntime`` (``pip install onnx onnxruntime``). Each row of states or logits of our forward pass
in NumPy is compared with ONNX Runtime's: cosine for the graph as it is, whose activations are rounded to 8 bits, and
the largest difference for the graph in float32, where nothing is. The last line is JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from miaotui.hub.resolve import resolve
from miaotui.model.encoder.opened import OpenedEncoder, open_encoder
from miaotui.model.encoder.oracle import EncoderOracle
from miaotui.text.encoders.load import load_encoder_tokenizer
from miaotui.text.encoders.tokenizer import EncoderTokenizer

NAMES = ("bge-small-en", "reranker", "colbert-small", "grammar")
TEXTS = (
    "How do I return an electric bike within thirty days?",
    "The quick brown fox jumps over the lazy dog.",
    "I has went too the store yesterday",
    "A mixed text: 模型 and 文本, 12345 numbers",
    " ".join(["the engine answers a customer in under a second"] * 20),
)
Rows = tuple[list[int], list[int]]


def main() -> None:
    """Print one line for each export, then JSON."""
    results = {name: compared(resolve(name)) for name in sys.argv[1:] or NAMES}
    for name, result in results.items():
        print(f"{name:14} int8 graph: mean cosine {result['cosine']:.5f}, least {result['least']:.5f}")
        print(f"{'':14} float graph: largest difference {result['difference']:.1e}")
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    print(json.dumps({"exports": results, "versions": versions}))


def compared(folder: Path) -> dict[str, float]:
    """Return mean and least cosine to the graph as it is, and the largest difference to the graph in float32."""
    file = next(folder.glob("*.onnx"))
    opened = open_encoder(folder)
    tokenizer = load_encoder_tokenizer(opened.metadata, opened.folder)
    pair = opened.head.kind == "cross-encoder"
    rows = [encoded(tokenizer, text, pair) for text in TEXTS]
    ours = [outputs(opened, *each) for each in rows]
    whole = [run(session(onnx.load(file)), *each) for each in rows]
    floats = [run(session(without_integers(onnx.load(file))), *each) for each in rows]
    cosines = np.concatenate([cosine(a, b) for a, b in zip(ours, whole, strict=True)])
    difference = max(float(np.abs(a - b).max()) for a, b in zip(ours, floats, strict=True))
    return {"cosine": float(cosines.mean()), "least": float(cosines.min()), "difference": difference}


def encoded(tokenizer: EncoderTokenizer, text: str, pair: bool) -> Rows:
    found = tokenizer.encode_pair("How can a bike be returned?", text) if pair else tokenizer.encode_text(text)
    return found.tokens, found.types


def outputs(opened: OpenedEncoder, tokens: list[int], types: list[int]) -> np.ndarray:
    """Return what the export gives: states, or logits of its classifier."""
    states = EncoderOracle(opened.config, opened.weights).states(tokens, types if opened.config.type_vocab_size else ())
    if opened.head.kind == "none":
        return states
    weights = {name: tensor.float32() for name, tensor in opened.weights.items() if name.startswith("head.")}
    if opened.head.kind != "token":
        first = states[:1] @ weights["head.transform"].T + weights["head.transform_bias"]
        states = np.tanh(first)
    found: np.ndarray = states @ weights["head.output"].T + weights["head.output_bias"]
    return found


def session(model: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )  # it rounds to integers itself
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def run(runner: onnxruntime.InferenceSession, tokens: list[int], types: list[int]) -> np.ndarray:
    ids = np.array([tokens], np.int64)
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.array([types], np.int64)}
    names = [each.name for each in runner.get_inputs()]
    found: np.ndarray = runner.run(None, {name: given[name] for name in names})[0]
    rows: np.ndarray = found.reshape(-1, found.shape[-1])
    return rows


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    found: np.ndarray = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


def without_integers(model: Any) -> Any:
    """Return the graph with float products in place of its integer ones, and nothing rounded on the way."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    consumers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    producers = {name: node for node in graph.node for name in node.output}
    dropped: set[int] = set()
    added = []
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            cast = consumers[node.output[0]][0]
            scaled = consumers[cast.output[0]][0]
            scales = producers[next(name for name in scaled.input if name != cast.output[0])]
            scale = next(constants[name] for name in scales.input if name in constants)
            whole, zero = constants[node.input[1]], constants[node.input[3]]
            weight = (whole.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * scale
            graph.initializer.append(numpy_helper.from_array(weight, f"{node.input[1]}_float"))
            source = producers[node.input[0]].input[0]
            added.append(helper.make_node("MatMul", [source, f"{node.input[1]}_float"], [scaled.output[0]]))
            dropped |= {id(each) for each in (node, cast, scaled, scales, producers[node.input[0]])}
        elif node.op_type == "QuantizeLinear":
            for back in consumers[node.output[0]]:
                added.append(helper.make_node("Identity", [node.input[0]], [back.output[0]]))
                dropped.add(id(back))
            dropped.add(id(node))
    kept = [node for node in graph.node if id(node) not in dropped]
    ordered = in_order([*kept, *added], {*constants, *(each.name for each in graph.input), ""} | names_of(graph))
    del graph.node[:]
    graph.node.extend(ordered)
    return model


def names_of(graph: Any) -> set[str]:
    return {tensor.name for tensor in graph.initializer}


def in_order(nodes: list[Any], known: set[str]) -> list[Any]:
    """Return ``nodes`` with each behind those it reads."""
    ordered: list[Any] = []
    while nodes:
        ready = [node for node in nodes if known.issuperset(node.input)]
        assert ready, f"{nodes[0].name} reads what no node makes"
        known |= {name for node in ready for name in node.output}
        ordered += ready
        taken = set(map(id, ready))
        nodes = [node for node in nodes if id(node) not in taken]
    return ordered


if __name__ == "__main__":
    main()
