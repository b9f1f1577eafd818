"""Files of encoders that are refused, each by name and with one clear error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_files import HEADS, body, opened_with, refused, states_of

from miaotui.errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from miaotui.model.encoder.container import EncoderContainer, SentenceSettings
from miaotui.model.encoder.heads import DenseConfig, PoolingConfig
from miaotui.model.encoder.opened import open_encoder
from miaotui.model.encoder.reading.mapping import mapped_encoder
from tiny_encoders import Array, make_tiny_encoder, make_tiny_encoder_gguf, random_weights, stored, tiny_encoder_values


@pytest.mark.parametrize(
    ("variant", "values", "words"),
    [
        ("bert", {"model_type": "electra"}, "'electra' are not supported; known are BERT, RoBERTa"),
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("bert", {"position_embedding_type": "relative_key"}, "relative_key"),
        ("bert", {"hidden_act": "mish"}, "mish"),
        ("bert", {"quantization_config": {"bits": 4}}, "quantized"),
        ("bert", {"architectures": ["BertForQuestionAnswering"]}, "BertForQuestionAnswering"),
        ("roberta", {"lora_adaptations": ["a"]}, "adapters"),
        ("albert", {"num_hidden_groups": 2}, "num_hidden_groups"),
        ("deberta-v3", {"conv_kernel_size": 3}, "convolution"),
        ("deberta-v3", {"share_att_key": False}, "share_att_key"),
        ("deberta-v3", {"pos_att_type": ["c2p"]}, "pos_att_type"),
        ("modernbert", {"layer_types": ["chunked_attention"] * 5}, "chunked_attention"),
        ("gte", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "yarn"),
        ("gte", {"logn_attention_scale": True}, "length"),
        ("nomic-bert", {"moe_every_n_layers": 2}, "mixture"),
        ("jina-bert-v2", {"feed_forward_type": "original"}, "original"),
        ("bert", {"hidden_size": 60, "num_attention_heads": 2}, "multiples of 32"),
    ],
)
def test_what_the_forward_pass_lacks_is_refused_by_name(variant: str, values: dict[str, Any], words: str) -> None:
    given = tiny_encoder_values(variant) | values
    tensors = stored(body(variant))
    refused(UnsupportedModelError, words, lambda: mapped_encoder(EncoderContainer(values=given, tensors=tensors)))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("vocab_size", 0, "vocab_size"),
        ("vocab_size", 1 << 30, "vocab_size"),
        ("hidden_size", "64", "hidden_size"),
        ("num_hidden_layers", 10**9, "num_hidden_layers"),
        ("num_attention_heads", 3, "3 attention heads"),
        ("intermediate_size", -1, "intermediate_size"),
        ("max_position_embeddings", 1 << 40, "max_position_embeddings"),
        ("layer_norm_eps", float("nan"), "layer_norm_eps"),
        ("layer_norm_eps", -1.0, "norm epsilon"),
        ("type_vocab_size", 1 << 20, "type_vocab_size"),
        ("hidden_act", 7, "hidden_act"),
        ("id2label", {"0": "a", "7": "b", "1": "c"}, "id2label"),
        ("id2label", {"0": "a", "1": "b"}, "id2label"),
        ("id2label", {"0": "a", "1": "b", "2": 3}, "id2label"),
        ("problem_type", "guess", "problem_type"),
        ("classifier_pooling", "max", "classifier_pooling"),
    ],
)
def test_values_out_of_range_are_one_clear_error(key: str, value: object, words: str) -> None:
    refused(ModelFormatError, words, lambda: opened_with("sequence", **{key: value}))


def damaged(change: Callable[[dict[str, Array]], object]) -> Callable[[], object]:
    tensors = body("bert", "bert.") | random_weights(HEADS["sequence"][1])
    change(tensors)
    values = tiny_encoder_values("bert") | {"architectures": ["BertForSequenceClassification"]}
    return lambda: mapped_encoder(EncoderContainer(values=values, tensors=stored(tensors)))


def test_tensors_that_do_not_fit_are_refused() -> None:
    embed = "bert.embeddings.word_embeddings.weight"
    short = np.zeros((319, 64), np.float32)
    refused(ModelFormatError, "word_embeddings.*319", damaged(lambda t: t.update({embed: short})))
    query = "bert.encoder.layer.1.attention.self.query.weight"
    refused(ModelFormatError, "query.*missing", damaged(lambda t: t.pop(query)))
    refused(ModelFormatError, "'extra.weight'.*unexpected", damaged(lambda t: t.update({"extra.weight": short})))
    refused(ModelFormatError, "classifier.weight' is missing", damaged(lambda t: t.pop("classifier.weight")))
    wide = np.zeros((3, 96), np.float32)
    refused(ModelFormatError, "classifier.weight.*96", damaged(lambda t: t.update({"classifier.weight": wide})))
    refused(ModelFormatError, "pooler", damaged(lambda t: t.pop("bert.pooler.dense.weight")))


def test_harmless_tensors_are_ignored_by_name() -> None:
    buffer = {"bert.embeddings.position_ids": np.zeros((1, 80), np.float32)}
    extra = random_weights({"cls.seq_relationship.weight": (2, 64), "cls.seq_relationship.bias": (2,)})
    tensors = body("bert", "bert.") | random_weights(HEADS["mlm"][1]) | buffer | extra
    values = tiny_encoder_values("bert") | {"architectures": ["BertForPreTraining"]}
    assert mapped_encoder(EncoderContainer(values=values, tensors=stored(tensors))).head.kind == "mlm"


def test_buffers_of_integers_are_left_out(tmp_path: Path) -> None:
    """Older checkpoints hold their position numbers as 64-bit integers."""
    from safetensors.numpy import save_file  # noqa: PLC0415  (a test extra)

    path = make_tiny_encoder(tmp_path, "bert")
    with open_encoder(path) as opened:
        expected = states_of(opened)
    numbers = {"embeddings.position_ids": np.arange(80, dtype=np.int64)[None]}
    save_file(body("bert") | numbers, path / "model.safetensors")
    with open_encoder(path) as opened:
        np.testing.assert_array_equal(states_of(opened), expected)
    save_file(body("bert") | {"other": np.arange(8)}, path / "model.safetensors")
    refused(UnsupportedModelError, "'other' is of type I64", lambda: open_encoder(path))


def test_dense_modules_must_follow_each_other() -> None:
    pooling = PoolingConfig(modes=("cls", "mean"), dense=(DenseConfig(inputs=64, outputs=32, bias=False),))
    dense = stored(random_weights({"0.weight": (32, 64)}))
    settings = SentenceSettings(pooling=pooling, dense=dense)
    container = EncoderContainer(values=tiny_encoder_values("bert"), tensors=stored(body("bert")), sentence=settings)
    refused(ModelFormatError, "takes 64 values, but 128", lambda: mapped_encoder(container))


def test_gguf_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def opening(variant: str = "bert", **metadata: Any) -> Callable[[], object]:
        return lambda: open_encoder(make_tiny_encoder_gguf(tmp_path, variant, **metadata))

    refused(UnsupportedModelError, "causal", opening(**{"attention.causal": True}))
    refused(ModelFormatError, "pooling_type", opening(pooling_type=9))
    refused(ModelFormatError, "ffn_up.*shape", opening(feed_forward_length=128))
    refused(ModelFormatError, "head_count|attention heads", opening(**{"attention.head_count": 5}))
    refused(UnsupportedModelError, "rope", opening("modernbert", **{"rope.scaling.type": "yarn"}))
    refused(ModelFormatError, "block_count", opening(block_count=10**6))


def test_other_gguf_architectures_are_refused_by_name(tmp_path: Path) -> None:
    from gguf import GGUFWriter  # noqa: PLC0415

    path = tmp_path / "other.gguf"
    writer = GGUFWriter(path, "t5encoder")
    writer.add_tensor("token_embd.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(UnsupportedModelError, "t5encoder.*bert, nomic-bert", lambda: open_encoder(path))


def test_folders_that_are_no_models_are_refused(tmp_path: Path) -> None:
    refused(ModelNotFoundError, "no file or folder", lambda: open_encoder(tmp_path / "none"))
    refused(ModelNotFoundError, "config.json", lambda: open_encoder(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    refused(UnsupportedModelError, "llama", lambda: open_encoder(tmp_path))
    lone = tmp_path / "model.safetensors"
    lone.write_bytes(b"")
    refused(UnsupportedModelError, "folder", lambda: open_encoder(lone))
