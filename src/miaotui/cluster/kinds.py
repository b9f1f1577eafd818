"""Kinds of models in a cluster: what a model's files are, and the replica that runs such a model.

Owns the question and the choice. Knows no network and no Ray. Invariant: ingress and replica answer the question from
the same files, whose digests are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from miaotui.cluster.transport.served_replica import ServedReplica
from miaotui.encoders.runtime import describe_encoder
from miaotui.errors import RequestError
from miaotui.hub.ensemble import is_ensemble
from miaotui.hub.resolve import resolve
from miaotui.llm import is_seq2seq_folder
from miaotui.model.seq2seq.opened import is_speech

ModelKind = Literal["decoder", "encoder", "speech"]

OPTIONS: Mapping[ModelKind, tuple[str, ...]] = {
    "decoder": (
        "threads",
        "context",
        "kv",
        "kv_tokens",
        "max_sequences",
        "chunk_size",
        "backend",
        "stages",
        "speculate",
    ),
    "encoder": ("threads", "backend", "max_tokens", "pooling"),
    "speech": ("threads", "backend"),
}


def kind_of(path: Path) -> ModelKind:
    """Return the kind of the model at ``path``. Raises a `MiaotuiError`."""
    if is_speech(path):
        return "speech"
    if not is_ensemble(path) and describe_encoder(path) is not None:
        return "encoder"
    if is_seq2seq_folder(path):
        raise RequestError("it is an encoder-decoder, which clusters do not serve yet: use `miaotui serve`")
    return "decoder"


def check_options(kind: ModelKind, options: Mapping[str, Any]) -> None:
    """Raise `RequestError` for an option that models of this kind do not take."""
    for name in options:
        if name not in OPTIONS[kind]:
            raise RequestError(f"the model is of the kind {kind}, which takes {', '.join(OPTIONS[kind])}, not {name}")


def open_replica(name: str, model: str, options: Mapping[str, Any]) -> ServedReplica:
    """Open the model that a cluster file names, whatever it is. Raises a `MiaotuiError`."""
    kind = kind_of(Path(resolve(model)))
    check_options(kind, options)
    if kind == "encoder":
        from miaotui.cluster.jobs.replica import EncoderReplica  # noqa: PLC0415  (decoders need none of it)

        return EncoderReplica.open(model, options)
    if kind == "speech":
        from miaotui.cluster.jobs.speech import SpeechReplica  # noqa: PLC0415  (as above)

        return SpeechReplica.open(name, model, options)
    from miaotui.cluster.replica import Replica  # noqa: PLC0415  (encoders need none of it)

    return Replica.open(name, model, options)
