"""Reads SentencePiece's own model files (``.spm``, ``.model``): pieces, scores and the rules of normalization.

Owns the fields of ``sentencepiece_model.proto`` that cutting needs. Its result has the form of a GGUF file's Unigram
vocabulary, which `text.encoders.unigram` cuts with. Invariant: counts and lengths are bounded by the file; other kinds
than Unigram are refused by name. Source: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from miaotui.errors import UnsupportedModelError
from miaotui.hub.formats.mapped import map_file
from miaotui.hub.formats.protobuf import LENGTH, VARINT, WireField, WireReader
from miaotui.text.tokenizers.gguf_vocabulary import GgufVocabulary, TokenType, read_vocabulary

MAX_PIECES = 1 << 21
MAX_PIECE_BYTES = 1 << 10
KINDS = {1: "Unigram", 2: "BPE", 3: "words", 4: "characters"}
_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of ModelProto


def read_sentencepiece(path: Path) -> GgufVocabulary:
    """Read the model file at ``path``.

    Raises `ModelNotFoundError`, `ModelFormatError` for a damaged file, `UnsupportedModelError` for other than Unigram.
    """
    return parse_sentencepiece(map_file(path)[:], str(path))


def parse_sentencepiece(content: bytes, label: str) -> GgufVocabulary:
    """Read a file held in ``content``, named ``label`` in errors. Raises as `read_sentencepiece`."""
    reader = WireReader(content, label)
    pieces: list[tuple[str, float, int]] = []
    values: dict[str, Any] = {}
    for field in reader.fields(0, len(content)):
        if field.number == _PIECE:
            pieces.append(_piece(reader, field))
            if len(pieces) > MAX_PIECES:
                raise reader.corrupt(f"more than {MAX_PIECES:,} pieces")
        elif field.number == _TRAINER:
            _require_unigram(reader, field)
        elif field.number == _NORMALIZER:
            values |= _normalizer(reader, field)
    if not pieces:
        raise reader.corrupt("no pieces: it is not a SentencePiece model")
    unknown = [place for place, piece in enumerate(pieces) if piece[2] == TokenType.UNKNOWN]
    values |= {
        "tokens": [piece[0] for piece in pieces],
        "scores": np.array([piece[1] for piece in pieces], np.float32),
        "token_type": np.array([piece[2] for piece in pieces], np.int32),
        "unknown_token_id": unknown[0] if unknown else 0,
    }
    return read_vocabulary({f"tokenizer.ggml.{name}": value for name, value in values.items()})


def _piece(reader: WireReader, message: WireField) -> tuple[str, float, int]:
    reader.require(message, LENGTH)
    text, score, kind = "", 0.0, int(TokenType.NORMAL)
    for field in reader.fields(message.start, message.end):
        if field.number == 1:
            text = reader.text(field, MAX_PIECE_BYTES)
        elif field.number == 2:
            score = reader.float(field)
        elif field.number == 3:
            reader.require(field, VARINT)
            kind = field.value
    return text, score, kind


def _require_unigram(reader: WireReader, message: WireField) -> None:
    reader.require(message, LENGTH)
    kind = 1
    suffix = False
    for field in reader.fields(message.start, message.end):
        if field.number == 3 and field.wire == VARINT:
            kind = field.value
        suffix = suffix or (field.number == 24 and field.wire == VARINT and bool(field.value))
    if kind != 1 or suffix:
        found = "spaces behind words" if suffix else KINDS.get(kind, "an unknown kind")
        raise UnsupportedModelError(
            f"{reader.label} is a SentencePiece model of {found}, and only Unigram with spaces before words is "
            "supported: put the model's tokenizer.json into its folder"
        )


def _normalizer(reader: WireReader, message: WireField) -> dict[str, Any]:
    reader.require(message, LENGTH)
    flags = {3: "add_space_prefix", 4: "remove_extra_whitespaces"}
    values: dict[str, Any] = {}
    for field in reader.fields(message.start, message.end):
        if field.number == 2:
            reader.require(field, LENGTH)
            values["precompiled_charsmap"] = np.frombuffer(reader.buffer[field.start : field.end], np.uint8)
        elif field.number in flags:
            reader.require(field, VARINT)
            values[flags[field.number]] = bool(field.value)
    return values
