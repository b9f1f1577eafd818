"""Facts of models that other programs have stored, for ``miaotui models --local``.

Owns the check that a model runs here: its files, architecture and tokenizer are read, its weights are not, and it has
to fit into memory. Knows no program's folders (`hub.local`). Invariant: a model that is called fit opens with
``miaotui run``.
"""

from __future__ import annotations

from typing import NamedTuple

from miaotui.errors import MiaotuiError
from miaotui.hub.local.stored import StoredModel

CHAT, ENCODER = "chat", "encoder"


class StoredFacts(NamedTuple):
    """A stored model, its quantisation, its kind (`CHAT`, `ENCODER`), and why it does not run; "" if it does."""

    model: StoredModel
    quantisation: str = ""
    kind: str = ""
    problem: str = ""


def describe(model: StoredModel, memory_bytes: int | None) -> StoredFacts:
    """Return the facts of a model, on a machine with so much memory (None: unknown)."""
    if model.problem:
        return StoredFacts(model, problem=model.problem)
    try:
        facts = _encoder(model) or _chat(model)
    except MiaotuiError as error:
        return StoredFacts(model, problem=str(error))
    if memory_bytes is not None and model.size_bytes > memory_bytes:
        return facts._replace(problem="it is larger than this machine's memory")
    return facts


def _chat(model: StoredModel) -> StoredFacts:
    from miaotui.hub.quantisation import quantisation
    from miaotui.model.reading.files import open_model
    from miaotui.text.load import load_tokenizer

    with open_model(model.path) as opened:
        load_tokenizer(opened.metadata, opened.folder)
        return StoredFacts(model, quantisation(opened.metadata, opened.tensors), CHAT)


def _encoder(model: StoredModel) -> StoredFacts | None:
    """Return the facts of an encoder; None for another model."""
    from miaotui.hub.quantisation import quantisation
    from miaotui.model.encoder.opened import is_encoder, open_encoder
    from miaotui.model.encoder.reading.from_decoder import is_decoder_encoder, open_decoder_encoder

    if is_decoder_encoder(model.path):
        with open_decoder_encoder(model.path) as decoder:
            return StoredFacts(model, quantisation(decoder.files.metadata, decoder.files.tensors), ENCODER)
    if not is_encoder(model.path):
        return None
    with open_encoder(model.path) as opened:
        return StoredFacts(model, quantisation(opened.metadata, opened.weights), ENCODER)
