"""Encoders' files: every container of one model gives the same bits, and what is not understood is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miaotui.errors import ModelError, ModelFormatError, ModelNotFoundError, UnsupportedModelError
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.container import EncoderContainer, SentenceSettings
from miaotui.model.encoder.heads import DenseConfig, PoolingConfig
from miaotui.model.encoder.opened import OpenedEncoder, open_encoder
from miaotui.model.encoder.oracle import EncoderOracle
from miaotui.model.encoder.reading.from_gguf import encoder_from_gguf
from miaotui.model.encoder.reading.from_hf import encoder_config_from_hf
from miaotui.model.encoder.reading.mapping import mapped_encoder
from miaotui.model.encoder.task_head import TaskHead
from tiny_encoders import (
    GGUF_NAMES,
    VARIANTS,
    Array,
    encoder_metadata,
    gguf_tensors,
    hf_tensors,
    make_tiny_encoder,
    make_tiny_encoder_gguf,
    random_weights,
    stored,
    tiny_encoder_config,
    tiny_encoder_values,
    tiny_encoder_weights,
)

TOKENS = np.random.default_rng(5).integers(0, 320, 30).tolist()
IN_GGUF = ("bert", "roberta", "distilbert", "nomic-bert", "jina-bert-v2", "modernbert")
HEADS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {  # architecture, and its stored tensors besides the body
    "mlm": (
        "BertForMaskedLM",
        {
            "cls.predictions.transform.dense.weight": (64, 64),
            "cls.predictions.transform.dense.bias": (64,),
            "cls.predictions.transform.LayerNorm.weight": (64,),
            "cls.predictions.transform.LayerNorm.bias": (64,),
            "cls.predictions.bias": (320,),
        },
    ),
    "sequence": (
        "BertForSequenceClassification",
        {
            "bert.pooler.dense.weight": (64, 64),
            "bert.pooler.dense.bias": (64,),
            "classifier.weight": (3, 64),
            "classifier.bias": (3,),
        },
    ),
    "token": ("BertForTokenClassification", {"classifier.weight": (5, 64), "classifier.bias": (5,)}),
    "colbert": ("HF_ColBERT", {"linear.weight": (32, 64)}),
}


def states_of(opened: OpenedEncoder) -> Array:
    return EncoderOracle(opened.config, opened.weights).states(TOKENS)


def body(variant: str, prefix: str = "") -> dict[str, Array]:
    values = tiny_encoder_values(variant)
    tensors = hf_tensors(values, tiny_encoder_weights(tiny_encoder_config(variant)))
    return {prefix + name: array for name, array in tensors.items()}


def opened_with(kind: str, **values: Any) -> OpenedEncoder:
    """BERT with one kind of head, as transformers names its tensors."""
    architecture, shapes = HEADS[kind]
    tensors = body("bert", "bert.") | random_weights(shapes)
    config = tiny_encoder_values("bert") | {"architectures": [architecture]} | values
    return mapped_encoder(EncoderContainer(values=config, tensors=stored(tensors)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_folder_gives_its_own_weights(variant: str, tmp_path: Path) -> None:
    config = tiny_encoder_config(variant)
    with open_encoder(make_tiny_encoder(tmp_path, variant)) as opened:
        assert opened.config == config
        assert opened.head.kind == "none"
        expected = EncoderOracle(config, tiny_encoder_weights(config)).states(TOKENS)
        np.testing.assert_array_equal(states_of(opened), expected)


@pytest.mark.parametrize("variant", IN_GGUF)
def test_gguf_and_safetensors_give_the_same_bits(variant: str, tmp_path: Path) -> None:
    with open_encoder(make_tiny_encoder(tmp_path, variant)) as folder:
        expected = states_of(folder)
    with open_encoder(make_tiny_encoder_gguf(tmp_path, variant)) as file:
        assert file.pooling == PoolingConfig(modes=("mean",), normalize=True)
        np.testing.assert_array_equal(states_of(file), expected)


def test_quantized_gguf_is_close(tmp_path: Path) -> None:
    exact = states_of(open_encoder(make_tiny_encoder_gguf(tmp_path, "jina-bert-v2")))
    with open_encoder(make_tiny_encoder_gguf(tmp_path, "jina-bert-v2", kind="Q8_0")) as file:
        difference = np.abs(states_of(file) - exact).max()
    assert 0 < difference < 0.2


@pytest.mark.parametrize(("variant", "prefix"), [("bert", "bert."), ("roberta", "roberta."), ("modernbert", "model.")])
def test_a_prefix_changes_nothing(variant: str, prefix: str) -> None:
    values = tiny_encoder_values(variant)
    plain = mapped_encoder(EncoderContainer(values=values, tensors=stored(body(variant))))
    prefixed = mapped_encoder(EncoderContainer(values=values, tensors=stored(body(variant, prefix))))
    np.testing.assert_array_equal(states_of(prefixed), states_of(plain))


@pytest.mark.parametrize("variant", ["nomic-bert", "gte"])
def test_both_spellings_of_a_family_are_read(variant: str) -> None:
    values, config = tiny_encoder_values(variant), tiny_encoder_config(variant)
    weights = tiny_encoder_weights(config)
    modern = {}
    for name, array in weights.items():
        stem, kind = name.removesuffix("_bias"), "bias" if name.endswith("_bias") else "weight"
        modern[f"{MODERN.get(stem) or modern_layer(stem)}.{kind}"] = array
    newer = mapped_encoder(EncoderContainer(values=values, tensors=stored(modern)))
    older = mapped_encoder(EncoderContainer(values=values, tensors=stored(body(variant))))
    np.testing.assert_array_equal(states_of(newer), states_of(older))


MODERN = {
    "embed": "embeddings.word_embeddings",
    "type_embed": "embeddings.token_type_embeddings",
    "embed_norm": "embeddings.LayerNorm",
}


def modern_layer(stem: str) -> str:
    """A layer's module as transformers 5 writes NomicBERT and GTE."""
    _, layer, part = stem.split(".")
    if part in ("q", "k", "v", "o"):
        return f"layers.{layer}.self_attn.{part}_proj"
    norms = {"attn_norm": "post_attention_layernorm", "ffn_norm": "post_mlp_layernorm"}
    return f"layers.{layer}.{norms.get(part) or f'mlp.{part}_proj'}"


def test_nomics_own_configuration_is_read() -> None:
    own = {
        "model_type": "nomic_bert",
        "vocab_size": 320,
        "n_embd": 64,
        "n_layer": 3,
        "n_head": 2,
        "n_inner": 96,
        "n_positions": 80,
        "layer_norm_epsilon": 1e-12,
        "activation_function": "swiglu",
        "rotary_emb_base": 1000,
        "rotary_emb_fraction": 1.0,
        "type_vocab_size": 2,
        "qkv_proj_bias": False,
    }
    assert encoder_config_from_hf(own) == tiny_encoder_config("nomic-bert")
    limited = encoder_config_from_hf(own | {"rotary_scaling_factor": 2, "max_trained_positions": 60})
    assert limited.max_tokens == 60


def test_gte_has_its_own_ntk_scaling() -> None:
    values = tiny_encoder_values("gte", rope_theta=20_000, rope_scaling={"type": "ntk", "factor": 8.0})
    rope = encoder_config_from_hf(values | {"model_type": "new"}).rope
    assert rope is not None
    expected = (20_000 * 8.0) ** (-np.arange(0, 32, 2) / 32) / 8 ** (2 / 32)
    np.testing.assert_allclose(rope.inverse_frequencies(), expected, rtol=1e-12)


def test_oldest_names_of_norms_are_read() -> None:
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in body("bert").items()
    }
    old = mapped_encoder(EncoderContainer(values=tiny_encoder_values("bert"), tensors=stored(tensors)))
    new = mapped_encoder(EncoderContainer(values=tiny_encoder_values("bert"), tensors=stored(body("bert"))))
    np.testing.assert_array_equal(states_of(old), states_of(new))


@pytest.mark.parametrize("kind", HEADS)
def test_heads_are_found(kind: str) -> None:
    opened = opened_with(kind)
    assert opened.head.kind == kind
    assert opened.head.outputs == {"mlm": 320, "sequence": 3, "token": 5, "colbert": 32}[kind]
    assert opened.labels == {"sequence": ("LABEL_0", "LABEL_1", "LABEL_2")}.get(
        kind, tuple(f"LABEL_{i}" for i in range(5)) if kind == "token" else ()
    )
    assert opened.head.tied == (kind == "mlm")


def test_labels_and_problem_are_read() -> None:
    names = {"2": "joy", "0": "anger", "1": "calm"}
    opened = opened_with("sequence", id2label=names, problem_type="multi_label_classification")
    assert opened.labels == ("anger", "calm", "joy")
    assert opened.head.problem == "multi_label"


def test_one_output_is_a_cross_encoder() -> None:
    shapes = HEADS["sequence"][1] | {"classifier.weight": (1, 64), "classifier.bias": (1,)}
    values = tiny_encoder_values("bert") | {"architectures": ["BertForSequenceClassification"]}
    values["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    tensors = stored(body("bert", "bert.") | random_weights(shapes))
    opened = mapped_encoder(EncoderContainer(values=values, tensors=tensors))
    assert (opened.head.kind, opened.head.scores) == ("cross-encoder", "identity")


def test_a_sentence_transformers_folder_decides_the_head() -> None:
    head = stored(body("bert", "bert.") | random_weights(HEADS["mlm"][1]))
    values = tiny_encoder_values("bert") | {"architectures": ["BertForMaskedLM"]}
    pooling = PoolingConfig(dense=(DenseConfig(inputs=64, outputs=32, bias=True, activation="tanh"),))
    dense = stored(random_weights({"0.weight": (32, 64), "0.bias": (32,)}))
    settings = SentenceSettings(pooling=pooling, dense=dense, max_tokens=50, prompts={"query": "q: "})
    opened = mapped_encoder(EncoderContainer(values=values, tensors=head, sentence=settings))
    assert opened.head.kind == "none"
    assert opened.config.max_tokens == 50
    assert opened.weights["head.dense.0"].shape == (32, 64)
    splade = SentenceSettings(pipeline="splade")
    assert mapped_encoder(EncoderContainer(values=values, tensors=head, sentence=splade)).head.kind == "splade"
    late = SentenceSettings(pipeline="colbert", dense=stored(random_weights({"0.weight": (32, 64)})))
    colbert = mapped_encoder(EncoderContainer(values=values, tensors=head, sentence=late))
    assert (colbert.head.kind, colbert.head.outputs, colbert.head.output_bias) == ("colbert", 32, False)


def test_gguf_says_its_pooling(tmp_path: Path) -> None:
    with open_encoder(make_tiny_encoder_gguf(tmp_path, "bert", pooling_type=0)) as file:
        assert file.pooling is None
    with open_encoder(make_tiny_encoder_gguf(tmp_path, "bert", pooling_type=2)) as file:
        assert file.pooling is not None
        assert file.pooling.modes == ("cls",)


GGUF_HEAD: dict[str, tuple[int, ...]] = {
    "cls.weight": (64, 64),
    "cls.bias": (64,),
    "cls.output.weight": (2, 64),
    "cls.output.bias": (2,),
}


def gguf_with(variant: str, shapes: dict[str, tuple[int, ...]], **metadata: Any) -> OpenedEncoder:
    """An encoder of a GGUF file's metadata and tensors, with further tensors of these shapes."""
    config = tiny_encoder_config(variant)
    name = GGUF_NAMES.get(config.architecture, "bert")
    pairs = {f"{name}.{key}": value for key, value in (encoder_metadata(config) | metadata).items()}
    tensors = gguf_tensors(config, tiny_encoder_weights(config)) | random_weights(shapes)
    return encoder_from_gguf(pairs | {"general.architecture": name}, stored(tensors))


def test_a_robertas_classifier_is_the_same_from_gguf() -> None:
    file = gguf_with("roberta", GGUF_HEAD, **{"pooling_type": 4, "classifier.output_labels": ["no", "yes"]})
    assert (file.head.kind, file.labels, file.head.transform, file.pooling) == ("sequence", ("no", "yes"), "tanh", None)
    names = {"cls": "classifier.dense", "cls.output": "classifier.out_proj"}
    head = {f"{names[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": w for n, w in random_weights(GGUF_HEAD).items()}
    values = tiny_encoder_values("roberta") | {"architectures": ["RobertaForSequenceClassification"]}
    folder = mapped_encoder(EncoderContainer(values=values, tensors=stored(body("roberta") | head)))
    found, expected = (TaskHead(o.config, o.head, o.weights).logits(states_of(o)) for o in (file, folder))
    np.testing.assert_array_equal(found, expected)


def test_activations_before_a_classifier_are_the_familys() -> None:
    assert gguf_with("distilbert", GGUF_HEAD).head.transform == "relu"
    modern = gguf_with(
        "modernbert", {"cls.weight": (64, 64), "cls.norm.weight": (64,), "cls.output.weight": (1, 64)}
    ).head
    assert (modern.kind, modern.transform, modern.norm, modern.pooling) == ("cross-encoder", "gelu", True, "mean")


def test_a_colberts_gguf_has_its_matrix() -> None:
    head = gguf_with("bert", {"dense_2.weight": (32, 64)}, pooling_type=0).head
    assert (head.kind, head.outputs, head.output_bias) == ("colbert", 32, False)


def test_a_classifier_without_the_layer_before_it_is_refused() -> None:
    refused(UnsupportedModelError, "classifier without", lambda: gguf_with("bert", {"cls.weight": (2, 64)}))
    refused(UnsupportedModelError, "classifier without", lambda: gguf_with("bert", {"cls.output.weight": (2, 64)}))


# what is refused


def refused(error: type[ModelError], words: str, action: Callable[[], object]) -> None:
    with pytest.raises(error, match=words):
        action()


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


def test_the_written_gguf_says_what_its_configuration_says() -> None:
    config: EncoderConfig = tiny_encoder_config("modernbert")
    assert encoder_metadata(config)["attention.sliding_window"] == 16
