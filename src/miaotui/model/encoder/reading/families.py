"""Encoder families as data: transformers' tensor names, and the names of their heads.

An entry holds only facts about names; sizes and features come from ``config.json`` (`from_hf`). Invariant: an encoder
whose family has no entry is refused. A module ``m`` stands for the tensors ``m.weight`` and, for canonical names that
end in ``_bias``, ``m.bias``. Sources: each model's implementation in transformers or in its own repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from miaotui.errors import UnsupportedModelError

Part = tuple[str, int]  # a module, and which of the equal parts of its rows


@dataclass(frozen=True, kw_only=True)
class NameScheme:
    """Modules of the body by canonical name; ``layer`` is the prefix of a layer's, with ``{}`` for its number."""

    body: Mapping[str, str]
    layer: str
    layers: Mapping[str, str | Part]


@dataclass(frozen=True, kw_only=True)
class HeadNames:
    """Modules of one kind of head; a ``{}`` stands for the body's prefix.

    ``activation`` is a name, or the key of ``config.json`` that holds one; None means the body's own.
    """

    output: str
    transform: str | None = None
    norm: str | None = None
    activation: str | None = None
    output_biases: tuple[str, ...] = ()  # tensors, the first that is there; (): ``output`` + ".bias"


@dataclass(frozen=True, kw_only=True)
class Family:
    """Names of every model of one family."""

    name: str
    title: str
    model_types: tuple[str, ...]
    prefixes: tuple[str, ...]  # of the body's tensors beside a head; there may be none
    spellings: tuple[NameScheme, ...]
    mlm: tuple[HeadNames, ...]
    sequence: HeadNames
    token: HeadNames = HeadNames(output="classifier")
    ignored: tuple[str, ...] = ()  # prefixes of stored names, besides `IGNORED`
    fields: Mapping[str, str] = field(default_factory=dict)  # keys of config.json, where they are not BERT's


# Prefixes of tensors without meaning for the states: buffers, and what is trained beside the model.
IGNORED = ("cls.seq_relationship.",)
BUFFERS = ("position_ids", "token_type_ids", "inv_freq")  # last part of the name

_EMBEDDINGS = {
    "embed": "embeddings.word_embeddings",
    "position_embed": "embeddings.position_embeddings",
    "type_embed": "embeddings.token_type_embeddings",
    "embed_norm": "embeddings.LayerNorm",
}
_BERT_FFN = {"up": "intermediate.dense", "down": "output.dense", "ffn_norm": "output.LayerNorm"}
_BERT_OUTPUT = {"o": "attention.output.dense", "attn_norm": "attention.output.LayerNorm"}
_BERT_ATTENTION = _BERT_OUTPUT | {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value"}
BERT_LAYER = _BERT_ATTENTION | _BERT_FFN
DISTILBERT_LAYER = {
    "q": "attention.q_lin",
    "k": "attention.k_lin",
    "v": "attention.v_lin",
    "o": "attention.out_lin",
    "attn_norm": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "ffn_norm": "output_layer_norm",
}
_BERT = NameScheme(body=_EMBEDDINGS, layer="encoder.layer.{}.", layers=BERT_LAYER)
_SEPARATE: dict[str, str | Part] = {  # as transformers writes its newer encoders
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "attn_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "ffn_norm": "post_mlp_layernorm",
}
_MODERN = NameScheme(body=_EMBEDDINGS, layer="layers.{}.", layers=_SEPARATE)


def _fused(module: str) -> dict[str, str | Part]:
    return {"q": (module, 0), "k": (module, 1), "v": (module, 2)}


def _mlm(transform: str, norm: str, output: str, *biases: str, activation: str | None = None) -> HeadNames:
    return HeadNames(transform=transform, norm=norm, output=output, activation=activation, output_biases=biases)


_BERT_MLM = _mlm(
    "cls.predictions.transform.dense",
    "cls.predictions.transform.LayerNorm",
    "cls.predictions.decoder",
    "cls.predictions.bias",
    "cls.predictions.decoder.bias",
)
_ROBERTA_MLM = _mlm(
    "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias", "lm_head.decoder.bias", activation="gelu"
)
_POOLER = HeadNames(transform="{}pooler.dense", activation="tanh", output="classifier")
_ROBERTA_SEQUENCE = HeadNames(transform="classifier.dense", activation="tanh", output="classifier.out_proj")

FAMILIES = (
    Family(
        name="bert",
        title="BERT",
        model_types=("bert",),
        prefixes=("bert.",),
        spellings=(_BERT,),
        mlm=(_BERT_MLM,),
        sequence=_POOLER,
    ),
    Family(
        name="roberta",
        title="RoBERTa, XLM-RoBERTa and CamemBERT",
        model_types=("roberta", "xlm-roberta", "camembert"),
        prefixes=("roberta.",),
        spellings=(_BERT,),
        mlm=(_ROBERTA_MLM,),
        sequence=_ROBERTA_SEQUENCE,
    ),
    Family(
        name="distilbert",
        title="DistilBERT",
        model_types=("distilbert",),
        prefixes=("distilbert.",),
        spellings=(NameScheme(body=_EMBEDDINGS, layer="transformer.layer.{}.", layers=DISTILBERT_LAYER),),
        mlm=(_mlm("vocab_transform", "vocab_layer_norm", "vocab_projector"),),
        sequence=HeadNames(transform="pre_classifier", activation="relu", output="classifier"),
        fields={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
        },
    ),
    Family(
        name="albert",
        title="ALBERT",
        model_types=("albert",),
        prefixes=("albert.",),
        spellings=(
            NameScheme(
                body=_EMBEDDINGS | {"embed_projection": "encoder.embedding_hidden_mapping_in"},
                layer="encoder.albert_layer_groups.{}.albert_layers.0.",
                layers={
                    "q": "attention.query",
                    "k": "attention.key",
                    "v": "attention.value",
                    "o": "attention.dense",
                    "attn_norm": "attention.LayerNorm",
                    "up": "ffn",
                    "down": "ffn_output",
                    "ffn_norm": "full_layer_layer_norm",
                },
            ),
        ),
        mlm=(
            _mlm(
                "predictions.dense",
                "predictions.LayerNorm",
                "predictions.decoder",
                "predictions.bias",
                "predictions.decoder.bias",
            ),
        ),
        sequence=HeadNames(transform="{}pooler", activation="tanh", output="classifier"),
        ignored=("sop_classifier.",),
    ),
    Family(
        name="mpnet",
        title="MPNet",
        model_types=("mpnet",),
        prefixes=("mpnet.",),
        spellings=(
            NameScheme(
                body=_EMBEDDINGS | {"relative_bias": "encoder.relative_attention_bias"},
                layer="encoder.layer.{}.",
                layers=_BERT_FFN
                | {
                    "q": "attention.attn.q",
                    "k": "attention.attn.k",
                    "v": "attention.attn.v",
                    "o": "attention.attn.o",
                    "attn_norm": "attention.LayerNorm",
                },
            ),
        ),
        mlm=(_ROBERTA_MLM,),
        sequence=_ROBERTA_SEQUENCE,
    ),
    Family(
        name="deberta-v2",
        title="DeBERTa v2 and v3",
        model_types=("deberta-v2",),
        prefixes=("deberta.",),
        spellings=(
            NameScheme(
                body=_EMBEDDINGS
                | {"relative_embed": "encoder.rel_embeddings", "relative_embed_norm": "encoder.LayerNorm"},
                layer="encoder.layer.{}.",
                layers=_BERT_OUTPUT
                | _BERT_FFN
                | {"q": "attention.self.query_proj", "k": "attention.self.key_proj", "v": "attention.self.value_proj"},
            ),
        ),
        mlm=(
            _mlm(
                "lm_predictions.lm_head.dense",
                "lm_predictions.lm_head.LayerNorm",
                "lm_predictions.lm_head.decoder",
                "lm_predictions.lm_head.bias",
            ),
            _BERT_MLM,
        ),
        sequence=HeadNames(transform="pooler.dense", activation="pooler_hidden_act", output="classifier"),
        ignored=("mask_predictions.", "deberta.embeddings.position_embeddings.", "embeddings.position_embeddings."),
    ),
    Family(
        name="modernbert",
        title="ModernBERT",
        model_types=("modernbert",),
        prefixes=("model.",),
        spellings=(
            NameScheme(
                body={
                    "embed": "embeddings.tok_embeddings",
                    "embed_norm": "embeddings.norm",
                    "final_norm": "final_norm",
                },
                layer="layers.{}.",
                layers=_fused("attn.Wqkv")
                | {
                    "o": "attn.Wo",
                    "attn_norm": "attn_norm",
                    "gate": ("mlp.Wi", 0),
                    "up": ("mlp.Wi", 1),
                    "down": "mlp.Wo",
                    "ffn_norm": "mlp_norm",
                },
            ),
        ),
        mlm=(_mlm("head.dense", "head.norm", "decoder", activation="classifier_activation"),),
        sequence=HeadNames(
            transform="head.dense", norm="head.norm", activation="classifier_activation", output="classifier"
        ),
        token=HeadNames(
            transform="head.dense", norm="head.norm", activation="classifier_activation", output="classifier"
        ),
        fields={"hidden_act": "hidden_activation", "layer_norm_eps": "norm_eps"},
    ),
    Family(
        name="nomic-bert",
        title="NomicBERT",
        model_types=("nomic_bert",),
        prefixes=("bert.", "nomic_bert."),
        spellings=(
            NameScheme(
                body=_EMBEDDINGS | {"embed_norm": "emb_ln"},
                layer="encoder.layers.{}.",
                layers=_fused("attn.Wqkv")
                | {
                    "o": "attn.out_proj",
                    "attn_norm": "norm1",
                    "up": "mlp.fc11",
                    "gate": "mlp.fc12",
                    "down": "mlp.fc2",
                    "ffn_norm": "norm2",
                },
            ),
            _MODERN,
        ),
        mlm=(
            _mlm(
                "cls.predictions.transform.dense",
                "cls.predictions.transform.layer_norm",
                "cls.predictions.decoder",
                "cls.predictions.bias",
                "cls.predictions.decoder.bias",
            ),
        ),
        sequence=_POOLER,
    ),
    Family(
        name="gte",
        title="GTE (the new ones, with rotary positions)",
        model_types=("new", "gte"),
        prefixes=("new.", "gte."),
        spellings=(
            NameScheme(
                body=_EMBEDDINGS,
                layer="encoder.layer.{}.",
                layers=_fused("attention.qkv_proj")
                | {
                    "o": "attention.o_proj",
                    "attn_norm": "attn_ln",
                    "up": ("mlp.up_gate_proj", 0),
                    "gate": ("mlp.up_gate_proj", 1),
                    "down": "mlp.down_proj",
                    "ffn_norm": "mlp_ln",
                },
            ),
            _MODERN,
        ),
        mlm=(
            _mlm("lm_head.dense", "lm_head.norm", "lm_head.decoder"),
            _mlm("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
        ),
        sequence=_POOLER,
    ),
    Family(
        name="jina-bert-v2",
        title="Jina BERT v2 (ALiBi)",
        model_types=(),  # its files say "bert", with position_embedding_type "alibi"
        prefixes=("bert.",),
        spellings=(
            NameScheme(
                body=_EMBEDDINGS,
                layer="encoder.layer.{}.",
                layers=_BERT_ATTENTION
                | {
                    "gate": ("mlp.gated_layers", 0),
                    "up": ("mlp.gated_layers", 1),
                    "down": "mlp.wo",
                    "ffn_norm": "mlp.layernorm",
                },
            ),
        ),
        mlm=(_BERT_MLM,),
        sequence=_POOLER,
    ),
)


def family_of(model_type: str, position: object = None) -> Family:
    """Return the family of a ``model_type``; ``position`` is the value of ``position_embedding_type``.

    Raises `UnsupportedModelError`, which lists the known ones.
    """
    if model_type == "bert" and position == "alibi":
        return by_name("jina-bert-v2")
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(family.title for family in FAMILIES)
    raise UnsupportedModelError(
        f"encoders of the kind {model_type[:40]!r} are not supported; known are {known}: choose another model"
    )


def by_name(name: str) -> Family:
    """Return the family of an `EncoderConfig.architecture`."""
    return next(family for family in FAMILIES if family.name == name)


def is_encoder_type(model_type: object) -> bool:
    """Return whether ``model_type`` of a ``config.json`` names a known encoder."""
    return any(model_type in family.model_types for family in FAMILIES)
