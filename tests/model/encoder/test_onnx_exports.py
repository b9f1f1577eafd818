"""ONNX exports: every weight is found by what the graph computes, and what is not known is refused by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_bytes import Bert

from miaotui.errors import ModelError, ModelFormatError, ModelNotFoundError, UnsupportedModelError
from miaotui.hub.formats.onnx import parse_onnx
from miaotui.model.encoder.containers.onnx.edges import Edges
from miaotui.model.encoder.containers.onnx.export import open_onnx
from miaotui.model.encoder.containers.onnx.structure import recognise
from miaotui.model.encoder.opened import open_encoder
from miaotui.model.encoder.oracle import EncoderOracle

GRAPHS = {
    "float": Bert(),
    "gemm, norm nodes": Bert(products="gemm", norms="node"),
    "dynamic int8": Bert(products="dynamic"),
    "dynamic int8 per channel": Bert(products="dynamic", per_channel=True),
    "QDQ": Bert(products="qdq", norms="node"),
    "QDQ per channel": Bert(products="qdq", per_channel=True),
    "QLinearMatMul": Bert(products="static"),
    "tanh": Bert(act="gelu_tanh"),
    "relu": Bert(act="relu"),
    "gelu node": Bert(act="node"),
    "silu": Bert(act="silu"),
    "distilbert tokens": Bert(family="distilbert", head="token", products="qdq", norms="node"),
    "distilbert sequence": Bert(family="distilbert", head="sequence"),
    "reranker": Bert(head="sequence", labels=1, products="dynamic"),
    "roberta": Bert(family="roberta"),
    "roberta sequence": Bert(family="roberta", head="sequence"),
    "one layer": Bert(layers=1, heads=1),
}


def saved(folder: Path, graph: Bert, **files: Any) -> Path:
    (folder / "model.onnx").write_bytes(graph.build())
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder / "model.onnx"


@pytest.mark.parametrize("name", GRAPHS)
def test_every_weight_is_found(tmp_path: Path, name: str) -> None:
    graph = GRAPHS[name]
    container = open_onnx(saved(tmp_path, graph))
    assert container.tensors.keys() == graph.made.keys()
    for key, expected in graph.made.items():
        np.testing.assert_array_equal(container.tensors[key].float32(), expected, err_msg=key)
    opened = open_encoder(tmp_path)
    config = opened.config
    assert (config.n_layers, config.n_heads, config.hidden_size) == (graph.layers, graph.heads, graph.hidden)
    assert config.activation == {"node": "gelu"}.get(graph.act, graph.act)
    assert config.norm_eps == pytest.approx(1e-12)
    assert config.type_vocab_size == {"bert": 2, "roberta": 1, "distilbert": 0}[graph.family]
    assert config.position_offset == (2 if graph.family == "roberta" else 0)
    states = EncoderOracle(config, opened.weights).states([1, 2, 3])
    assert np.isfinite(states).all()
    kinds = {"": "none", "token": "token", "sequence": "cross-encoder" if graph.labels == 1 else "sequence"}
    assert opened.head.kind == kinds[graph.head]


def test_labels_come_from_files_beside_it(tmp_path: Path) -> None:
    saved(tmp_path, GRAPHS["distilbert tokens"], tag_vocab={"tags": ["$KEEP", "$DELETE", "$APPEND_,"]})
    assert open_encoder(tmp_path).labels == ("$KEEP", "$DELETE", "$APPEND_,")
    saved(tmp_path, GRAPHS["distilbert tokens"], tag_vocab={"tags": "all"})
    with pytest.raises(ModelFormatError, match="'tags'"):
        open_encoder(tmp_path)


def test_a_configuration_that_says_otherwise_is_an_error(tmp_path: Path) -> None:
    saved(tmp_path, GRAPHS["float"], config={"model_type": "bert", "num_hidden_layers": 3})
    with pytest.raises(ModelFormatError, match="num_hidden_layers 2"):
        open_encoder(tmp_path)


def test_heads_that_the_graph_leaves_out_come_from_the_configuration(tmp_path: Path) -> None:
    graph = Bert(heads_in_shape=False)
    saved(tmp_path, graph)
    with pytest.raises(ModelFormatError, match=r"config\.json beside it"):
        open_encoder(tmp_path)
    saved(tmp_path, graph, config={"num_attention_heads": 2})
    assert open_encoder(tmp_path).config.n_heads == 2


def test_several_exports_are_named(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(GRAPHS["one layer"].build())
    with pytest.raises(ModelNotFoundError, match=r"a\.onnx, b\.onnx"):
        open_encoder(tmp_path)
    assert open_encoder(tmp_path / "a.onnx").config.n_layers == 1


def test_exports_inside_a_folder_of_their_own(tmp_path: Path) -> None:
    """Optimum puts them into ``onnx`` and leaves the tokenizer above."""
    (tmp_path / "onnx").mkdir()
    saved(tmp_path / "onnx", GRAPHS["one layer"])
    (tmp_path / "tokenizer.json").write_text("{}")
    for path in (tmp_path, tmp_path / "onnx" / "model.onnx"):
        assert open_encoder(path).folder == tmp_path


def test_a_bias_of_zeros_may_be_left_out(tmp_path: Path) -> None:
    opened = open_onnx(saved(tmp_path, Bert(products="gemm", head="sequence", bias_left_out=True)))
    assert not opened.tensors["classifier.bias"].float32().any()
    assert open_encoder(tmp_path).head.outputs == 3


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        (Bert(act="unknown"), "0 are of a known form"),
        (Bert(scale=0.5), "scaled by 0.5"),
        (Bert(domain="com.microsoft"), r"custom operator com\.microsoft\.Softmax"),
        (Bert(skip_norm=True), "known form|residual"),
    ],
)
def test_other_graphs_are_refused_by_name(tmp_path: Path, graph: Bert, says: str) -> None:
    with pytest.raises(UnsupportedModelError, match=says):
        open_onnx(saved(tmp_path, graph))


@pytest.mark.parametrize("name", GRAPHS)
def test_nodes_with_other_numbers_of_inputs_have_one_clear_error(name: str) -> None:
    graph = parse_onnx(GRAPHS[name].build(), "model.onnx")
    for place, node in enumerate(graph.nodes):
        for inputs in (*(node.inputs[:count] for count in range(len(node.inputs))), (*node.inputs, node.inputs[0])):
            nodes = list(graph.nodes)
            nodes[place] = dataclasses.replace(node, inputs=tuple(inputs))
            try:
                recognise(Edges(dataclasses.replace(graph, nodes=tuple(nodes)), "model.onnx"))
            except ModelError as error:
                assert "model.onnx" in str(error)  # noqa: PT017 - either outcome is right


GOOD = Bert(layers=1, heads=1, hidden=32, ffn=32, vocabulary=8, positions=8, products="dynamic").build()


@settings(deadline=None, derandomize=True, max_examples=200)
@given(flips=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_exports_have_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    damaged = bytearray(GOOD)
    for place, value in flips:
        damaged[place] = value
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    path.write_bytes(damaged)
    try:
        found = open_onnx(path)
        assert sum(tensor.size_bytes for tensor in found.tensors.values()) <= 8 * len(damaged)
    except ModelError as error:
        assert str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.compare
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_exports_of_torch_give_transformers_states(tmp_path: Path, family: str, attention: str) -> None:
    """A random model, exported by torch: our forward pass over what is read gives the states of transformers."""
    import torch  # noqa: PLC0415
    from transformers import AutoConfig, AutoModel  # noqa: PLC0415

    names = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    if family == "distilbert":
        names = {"dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 96}
    config = AutoConfig.for_model(
        family, **names, vocab_size=50, max_position_embeddings=40, attn_implementation=attention
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    ids = torch.randint(4, 50, (1, 9))

    class Exported(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            extra = {"token_type_ids": types} if family == "bert" else {}
            return self.model(input_ids=ids, attention_mask=mask, **extra)[0]

    inputs = ["input_ids", "attention_mask", "token_type_ids"]
    given = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    axes = {name: {0: "batch", 1: "rows"} for name in inputs}
    torch.onnx.export(
        Exported().eval(),
        given,
        str(tmp_path / "model.onnx"),
        input_names=inputs,
        output_names=["states"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    opened = open_encoder(tmp_path)
    with torch.no_grad():
        expected = Exported().eval()(*given)[0].numpy()
    states = EncoderOracle(opened.config, opened.weights).states(ids[0].tolist())
    np.testing.assert_allclose(states, expected, atol=1e-5)
