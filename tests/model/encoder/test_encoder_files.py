"""Encoders' files: every container of one model gives the same bits, and what is not understood is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from encoder_files import HEADS, TOKENS, body, gguf_with, opened_with, refused, states_of

from miaotui.errors import UnsupportedModelError
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.container import EncoderContainer, SentenceSettings
from miaotui.model.encoder.heads import DenseConfig, PoolingConfig
from miaotui.model.encoder.opened import open_encoder
from miaotui.model.encoder.oracle import EncoderOracle
from miaotui.model.encoder.reading.from_hf import encoder_config_from_hf
from miaotui.model.encoder.reading.mapping import mapped_encoder
from miaotui.model.encoder.task_head import TaskHead
from tiny_encoders import (
    VARIANTS,
    encoder_metadata,
    make_tiny_encoder,
    make_tiny_encoder_gguf,
    random_weights,
    stored,
    tiny_encoder_config,
    tiny_encoder_values,
    tiny_encoder_weights,
)

IN_GGUF = ("bert", "roberta", "distilbert", "nomic-bert", "jina-bert-v2", "modernbert")


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


def test_the_written_gguf_says_what_its_configuration_says() -> None:
    config: EncoderConfig = tiny_encoder_config("modernbert")
    assert encoder_metadata(config)["attention.sliding_window"] == 16
