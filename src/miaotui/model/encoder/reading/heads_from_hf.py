"""An encoder's head as ``config.json``, a sentence-transformers folder and the tensors themselves describe it.

Knows architectures by name (``BertForMaskedLM``), labels and problem types; the modules' names are in `families`.
Invariant: tensors of a head that is not used are ignored only if they are named here; any other unknown tensor is an
error (`sources.CanonicalTensors`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.encoder.config import Activation, EncoderConfig
from miaotui.model.encoder.container import SentenceSettings
from miaotui.model.encoder.heads import MAX_LABELS, HeadConfig, HeadKind, Problem, head_shapes
from miaotui.model.encoder.reading.families import Family, HeadNames
from miaotui.model.encoder.reading.from_hf import open_fields
from miaotui.model.encoder.reading.traits_from_hf import ACTIVATIONS, read_activation
from miaotui.model.reading.checks import require
from miaotui.model.reading.fields import Fields
from miaotui.model.reading.sources import Shape, TensorSource

KINDS: dict[str, HeadKind] = {  # by the end of the architecture's name
    "ForMaskedLM": "mlm",
    "ForPreTraining": "mlm",
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
    "ColBERT": "colbert",
    "Model": "none",
}
PROBLEMS: dict[str, Problem] = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
COLBERT = ("linear", "colbert_linear")  # modules of checkpoints of the original implementation
# Keys under which sentence-transformers has kept the function of a cross-encoder's score.
SCORE_KEYS = ("activation_fn", "sbert_ce_default_activation_function")
HEAD_PREFIXES = ("pooler.", "cls.", "lm_head.", "lm_predictions.", "vocab_", "predictions.", "head.", "decoder.")


@dataclass(frozen=True, kw_only=True)
class HeadSources:
    """A head, the shapes of its canonical tensors, where each is stored, and stored tensors without a use for it."""

    head: HeadConfig
    shapes: Mapping[str, Shape]
    sources: Mapping[str, TensorSource]
    ignored: tuple[str, ...]


def read_head(
    config: EncoderConfig,
    values: Mapping[str, Any],
    stored: Mapping[str, StoredTensor],
    prefix: str,
    sentence: SentenceSettings | None,
) -> HeadSources:
    """Read the head; ``prefix`` is that of the body's stored names.

    Raises `UnsupportedModelError` for heads that are not known here and `ModelFormatError` where tensors are missing.
    """
    family, fields = open_fields(values)
    kind = _kind(fields, sentence)
    ignored = _ignored(stored, prefix)
    if kind == "none":
        return HeadSources(head=HeadConfig(), shapes={}, sources={}, ignored=ignored)
    if kind == "colbert":
        return _colbert(config, stored, ignored)
    names = _names(family, kind, stored, prefix)
    head = _head(kind, config, fields, names, stored)
    shapes = head_shapes(config, head)
    sources = {name: _source(name, names, stored) for name in shapes}
    return HeadSources(head=head, shapes=shapes, sources=sources, ignored=ignored)


def _kind(fields: Fields, sentence: SentenceSettings | None) -> HeadKind:
    """Return the kind: a sentence-transformers folder says it, otherwise ``architectures`` does."""
    if sentence is not None and sentence.pipeline in ("embedding", "splade", "colbert"):
        kinds: dict[str, HeadKind] = {"embedding": "none", "splade": "splade", "colbert": "colbert"}
        return kinds[sentence.pipeline]
    architectures = fields.sequence("architectures") or ["Model"]
    for ending, kind in KINDS.items():
        if str(architectures[0]).endswith(ending):
            return kind
    raise UnsupportedModelError(
        f"the model is a {str(architectures[0])[:60]!r}; of encoders' heads only {', '.join(KINDS)} are supported: "
        "choose another model"
    )


def _names(family: Family, kind: HeadKind, stored: Mapping[str, StoredTensor], prefix: str) -> HeadNames:
    """Return the modules' names with the body's prefix filled in: of several spellings the one that is there."""
    choices = {"sequence": (family.sequence,), "token": (family.token,)}.get(kind, family.mlm)
    for names in choices:
        if f"{(names.transform or names.output).format(prefix)}.weight" in stored and _has_norm(names, stored):
            break
    else:
        names = choices[0]
    return replace(names, transform=names.transform.format(prefix) if names.transform else None)


def _has_norm(names: HeadNames, stored: Mapping[str, StoredTensor]) -> bool:
    return names.norm is None or f"{names.norm}.weight" in stored


def _head(
    kind: HeadKind, config: EncoderConfig, fields: Fields, names: HeadNames, stored: Mapping[str, StoredTensor]
) -> HeadConfig:
    classifies = kind in ("sequence", "token")
    tied = not classifies and fields.flag("tie_word_embeddings", True)
    outputs = _rows(stored, names.output) if classifies else config.vocab_size
    if kind == "sequence" and outputs == 1:
        kind = "cross-encoder"
    return HeadConfig(
        kind=kind,
        outputs=outputs,
        labels=_labels(fields, outputs) if classifies else (),
        problem=_problem(fields, outputs),
        scores=_scores(fields),
        pooling=_pooling(fields),
        transform=_activation(fields, names) if names.transform else None,
        transform_size=_rows(stored, names.transform) if names.transform else 0,
        transform_bias=f"{names.transform}.bias" in stored,
        norm=names.norm is not None,
        norm_bias=f"{names.norm}.bias" in stored,
        output_bias=_output_bias(names, stored) in stored,
        tied=tied,
    )


def _source(name: str, names: HeadNames, stored: Mapping[str, StoredTensor]) -> TensorSource:
    if name == "head.output_bias":
        return TensorSource(_output_bias(names, stored))
    part = name.removeprefix("head.").removesuffix("_bias")
    module = {"transform": names.transform, "norm": names.norm, "output": names.output}[part]
    return TensorSource(f"{module}{'.bias' if name.endswith('_bias') else '.weight'}")


def _output_bias(names: HeadNames, stored: Mapping[str, StoredTensor]) -> str:
    spellings = names.output_biases or (f"{names.output}.bias",)
    return next((name for name in spellings if name in stored), spellings[0])


def _rows(stored: Mapping[str, StoredTensor], module: str) -> int:
    """Return the outputs of a stored module, within what a head may have."""
    tensor = stored.get(f"{module}.weight")
    if tensor is None:
        raise ModelFormatError(
            f"tensor '{module}.weight' is missing, which the model's head needs: the file is incomplete; download it "
            "again"
        )
    require(1 <= tensor.shape[0] <= MAX_LABELS, f"tensor '{module}.weight'", f"of 1 to {MAX_LABELS} rows", tensor.shape)
    return tensor.shape[0]


def _activation(fields: Fields, names: HeadNames) -> Activation:
    if names.activation is None:
        return read_activation(fields, "hidden_act")
    if names.activation in ACTIVATIONS:
        return ACTIVATIONS[names.activation]
    return read_activation(fields, names.activation)


def _labels(fields: Fields, outputs: int) -> tuple[str, ...]:
    """Return the names of the outputs; transformers leaves two without names out of the file."""
    if not fields.has("id2label"):
        return tuple(f"LABEL_{index}" for index in range(outputs))
    declared = fields.nested("id2label").values
    require(len(declared) <= MAX_LABELS, "id2label", f"of at most {MAX_LABELS} names", len(declared))
    numbers = {str(index): index for index in range(outputs)}
    complete = declared.keys() == numbers.keys()
    require(complete, "id2label (config.json)", f"numbered 0 to {outputs - 1}, one per output", sorted(declared)[:4])
    labels = tuple(declared[str(index)] for index in range(outputs))
    require(all(isinstance(label, str) for label in labels), "id2label (config.json)", "strings", labels[:4])
    return tuple(str(label) for label in labels)


def _problem(fields: Fields, outputs: int) -> Problem:
    if not fields.has("problem_type"):
        return "regression" if outputs == 1 else "single_label"
    name = fields.text("problem_type")
    require(name in PROBLEMS, "problem_type (config.json)", f"one of {', '.join(PROBLEMS)}", name)
    return PROBLEMS[name]


def _scores(fields: Fields) -> Literal["sigmoid", "identity"]:
    """Return the function that a cross-encoder's file asks for; sentence-transformers' own default is the sigmoid."""
    nested = fields.nested("sentence_transformers")
    declared = next((place.text(key) for place in (nested, fields) for key in SCORE_KEYS if place.has(key)), "Sigmoid")
    name = declared.rsplit(".", 1)[-1]
    if name not in ("Sigmoid", "Identity"):
        raise UnsupportedModelError(
            f"the cross-encoder's scores pass through {declared[:60]!r}; only Sigmoid and Identity are supported: "
            "choose another model"
        )
    return "sigmoid" if name == "Sigmoid" else "identity"


def _pooling(fields: Fields) -> Literal["cls", "mean"]:
    """Return the pooling before a classifier (ModernBERT says which)."""
    name = fields.text("classifier_pooling", "cls")
    require(name in ("cls", "mean"), "classifier_pooling (config.json)", "'cls' or 'mean'", name)
    return "mean" if name == "mean" else "cls"


def _colbert(config: EncoderConfig, stored: Mapping[str, StoredTensor], ignored: tuple[str, ...]) -> HeadSources:
    module = next((name for name in COLBERT if f"{name}.weight" in stored), COLBERT[0])
    bias = f"{module}.bias" in stored
    head = HeadConfig(kind="colbert", outputs=_rows(stored, module), output_bias=bias)
    sources = {"head.output": TensorSource(f"{module}.weight"), "head.output_bias": TensorSource(f"{module}.bias")}
    return HeadSources(head=head, shapes=head_shapes(config, head), sources=sources, ignored=ignored)


def _ignored(stored: Mapping[str, StoredTensor], prefix: str) -> tuple[str, ...]:
    """Return the names of heads that files carry without a use for them, such as the pooler beside an MLM head."""
    return tuple(name for name in stored if name.removeprefix(prefix).startswith(HEAD_PREFIXES))
