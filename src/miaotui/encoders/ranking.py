"""Ranking documents and scoring pairs of texts: by a cross-encoder, by embeddings, or token by token (ColBERT).

Owns the scores and their order. Knows no thread and no event loop. Invariants: a document's score depends on itself
and the query alone; a document that cannot be taken fails alone; scores are in 0..1 and raw ones stand beside them.
Source of late interaction: Khattab and Zaharia, arXiv:2004.12832, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from miaotui.encoders.inputs import EncoderInputs, ReadOptions, read_pair, read_texts
from miaotui.encoders.prompts import prefix_of
from miaotui.encoders.results import RankedDocument
from miaotui.encoders.tasks import EncodeTask, Floats
from miaotui.engine.encoding.job import Reduction
from miaotui.engine.encoding.loaded import LoadedEncoder
from miaotui.engine.encoding.reading import StateReading
from miaotui.errors import FieldError, InputTooLongError, RequestError
from miaotui.model.encoder.pooling import rows_product
from miaotui.text.encoders.layout import EncodedText

Documents = Sequence[str]
Scores = tuple[float, float]  # as the model gives it, and in 0..1
Read = EncodedText | RequestError  # an input, or why it cannot be taken
DOCUMENTS, PAIRS = ReadOptions("documents"), ReadOptions("pairs")


def rerank(
    model: LoadedEncoder,
    query: str,
    documents: Documents,
    options: ReadOptions = DOCUMENTS,
    *,
    top_n: int | None = None,
) -> EncodeTask[list[RankedDocument]]:
    """Rank documents for a query, best first; of equals the first one first.

    A document that cannot be taken fails alone, at the end of the list. Raises `FieldError` for a query that cannot.
    """
    model.require("rerank", "embed")
    if top_n is not None and top_n < 1:
        raise FieldError("top_n", f"must be at least 1, not {top_n!r}")
    if not isinstance(query, str) or not query:
        raise FieldError("query", "must be a text that is not empty")
    if model.head.kind == "cross-encoder":
        _require_query(model, query, options)
        task = _pairs_task(
            model, [_tried(partial(read_pair, model, query, each, options, i)) for i, each in enumerate(documents)]
        )
    else:
        task = _rank_vectors(model, query, documents, options)
    return replace(task, finish=lambda found: _ranked(task.finish(found), top_n))


def score(
    model: LoadedEncoder, pairs: Sequence[tuple[str, str]], options: ReadOptions = PAIRS
) -> EncodeTask[list[RankedDocument]]:
    """Score pairs of texts in their order: by a cross-encoder, or by how alike their embeddings are.

    Raises `FieldError`, which names the pair that cannot be taken.
    """
    model.require("rerank", "embed")
    if model.head.kind == "cross-encoder":
        return _pairs_task(model, [read_pair(model, *pair, options, i) for i, pair in enumerate(pairs)])
    sides = [
        EncoderInputs([each for text in pair for each in read_texts(model, [text], replace(options, first=i)).encoded])
        for i, pair in enumerate(pairs)
    ]
    inputs = EncoderInputs([side for pair in sides for side in pair.encoded])
    compare = _comparison(model)

    def finish(found: list[Any]) -> list[RankedDocument]:
        return [
            _scored(index, compare(found[2 * index], found[2 * index + 1]), sum(pair.dropped))
            for index, pair in enumerate(sides)
        ]

    return EncodeTask(inputs.rows, _vector_reduction(model, inputs), finish, [sum(pair.dropped) for pair in sides])


def _require_query(model: LoadedEncoder, query: str, options: ReadOptions) -> None:
    """Raise `FieldError` for a query that leaves no room for a document, or is no valid text."""
    try:
        count = model.tokenizer.count(query)
    except RequestError as error:
        raise FieldError("query", str(error)) from None
    if count >= options.limit(model) and not options.truncate:
        limit = options.limit(model)
        raise InputTooLongError("query", f"it has {count:,} tokens, and query and document must fit {limit:,}")


def _tried(read: Callable[[], EncodedText]) -> Read:
    """Return an input, or why it cannot be taken."""
    try:
        return read()
    except RequestError as error:
        return error


def _pairs_task(model: LoadedEncoder, read: Sequence[Read]) -> EncodeTask[list[RankedDocument]]:
    """Score pairs by a cross-encoder."""
    inputs = EncoderInputs([each for each in read if not isinstance(each, RequestError)])

    def scored(_index: int, logits: Floats) -> Scores:
        raw = float(logits[0])
        return raw, sigmoid(raw)

    def finish(found: list[Any]) -> list[RankedDocument]:
        return _in_order(read, iter(found))

    reduction = Reduction.of(model, "logits", StateReading("logits"), scored)
    return EncodeTask(inputs.rows, reduction, finish, inputs.dropped)


def _rank_vectors(
    model: LoadedEncoder, query: str, documents: Documents, options: ReadOptions
) -> EncodeTask[list[RankedDocument]]:
    """Score each document by how alike its embedding and the query's are."""
    asked = read_texts(model, [query], replace(options, field="query"), prefix=prefix_of(model, "query"))
    prefix = prefix_of(model, "document")

    def read_one(index: int, document: str) -> EncodedText:
        if not document:  # the model's special tokens alone
            return model.tokenizer.encode_text(prefix.text)
        return read_texts(model, [document], replace(options, first=index), prefix=prefix).encoded[0]

    read = [_tried(partial(read_one, index, document)) for index, document in enumerate(documents)]
    inputs = EncoderInputs([*asked.encoded, *(each for each in read if not isinstance(each, RequestError))])
    compare = _comparison(model)

    def finish(found: list[Any]) -> list[RankedDocument]:
        return _in_order(read, (compare(found[0], vectors) for vectors in found[1:]))

    return EncodeTask(inputs.rows, _vector_reduction(model, inputs), finish, inputs.dropped[1:])


def _in_order(read: Sequence[Read], scores: Iterator[Scores]) -> list[RankedDocument]:
    """Put scores and failures together in the order of the documents."""
    return [
        RankedDocument(index, None, None, error=str(each))
        if isinstance(each, RequestError)
        else _scored(index, next(scores), each.dropped)
        for index, each in enumerate(read)
    ]


def _vector_reduction(model: LoadedEncoder, inputs: EncoderInputs) -> Reduction:
    """Return how a text becomes what is compared: one vector, or one for each token."""
    if model.head.kind == "colbert":
        return Reduction.of(model, "token_vectors", StateReading("logits"))
    reading = StateReading("embedding", prompt_rows=[each.prompt_rows for each in inputs.encoded])
    return Reduction.of(model, "embed", reading)


def _comparison(model: LoadedEncoder) -> Callable[[Floats, Floats], Scores]:
    """Return how alike a query's vectors and a document's are, by the model's own measure."""
    if model.head.kind == "colbert":
        return late_interaction
    return _MEASURES["dot" if model.head.kind == "splade" else model.similarity]


def cosine(query: Floats, document: Floats) -> Scores:
    """Return the cosine of two vectors ``[d]``, and its place between -1 and 1."""
    lengths = math.sqrt(_dot(query, query)) * math.sqrt(_dot(document, document))
    raw = _dot(query, document) / max(lengths, 1e-12)
    return raw, min(max((1.0 + raw) / 2.0, 0.0), 1.0)


def dot(query: Floats, document: Floats) -> Scores:
    """Return the dot product of two vectors ``[d]``, and its logistic function."""
    raw = _dot(query, document)
    return raw, sigmoid(raw)


def euclidean(query: Floats, document: Floats) -> Scores:
    """Return the negative distance of two vectors ``[d]``, and ``1 / (1 + distance)``."""
    apart = math.sqrt(_dot(query - document, query - document))
    return -apart, 1.0 / (1.0 + apart)


def manhattan(query: Floats, document: Floats) -> Scores:
    """Return the negative sum of differences of two vectors ``[d]``, and ``1 / (1 + sum)``."""
    apart = float(np.abs(query - document).sum(dtype=np.float64))
    return -apart, 1.0 / (1.0 + apart)


def late_interaction(query: Floats, document: Floats) -> Scores:
    """Return the sum over query tokens ``[n, d]`` of their best match in ``[m, d]``, and the mean's place in -1..1."""
    raw = float(rows_product(query, document).max(axis=1).sum(dtype=np.float64))
    return raw, min(max((1.0 + raw / len(query)) / 2.0, 0.0), 1.0)


_MEASURES = {"cosine": cosine, "dot": dot, "euclidean": euclidean, "manhattan": manhattan}


def sigmoid(value: float) -> float:
    """Return ``1 / (1 + exp(-value))``, without overflow."""
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    grown = math.exp(value)
    return grown / (1.0 + grown)


def _dot(first: Floats, second: Floats) -> float:
    return float(np.dot(first.astype(np.float64), second.astype(np.float64)))


def _scored(index: int, scores: Scores, dropped: int) -> RankedDocument:
    raw, score = scores
    return RankedDocument(index, score, raw, dropped)


def _ranked(documents: list[RankedDocument], top_n: int | None) -> list[RankedDocument]:
    """Return the best ``top_n``, best first, and behind them those that failed."""
    sound = [each for each in documents if each.raw_score is not None]
    sound.sort(key=lambda each: (-(each.raw_score or 0.0), each.index))
    return [*sound[:top_n], *(each for each in documents if each.error is not None)]
