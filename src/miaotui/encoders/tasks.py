"""From a call to an encoder (embed, classify, tag, fill masks) to a job for its loop, and back to typed results.

Owns what each task reads and gives, for `Encoder`, `AsyncEncoder` and the server alike; `ranking` has those of two
texts. Knows no thread and no event loop. Invariants: what a caller gets wrong is a `RequestError` before anything
runs; a result depends on its own text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.encoder_backend import TextRows
from miaotui.encoders.inputs import PLAIN, EncoderInputs, ReadOptions, Text, read_pair, read_texts
from miaotui.encoders.prompts import prefix_of
from miaotui.encoders.results import Classification, MaskFill, TaggedSpan
from miaotui.encoders.spans import Aggregation, require_aggregation, spans_of
from miaotui.engine.encoding.job import Reduction
from miaotui.engine.encoding.loaded import LoadedEncoder
from miaotui.engine.encoding.reading import StateReading
from miaotui.errors import FieldError, RequestError
from miaotui.model.formulas import softmax
from miaotui.text.encoders.layout import EncodedText

Result = TypeVar("Result")
Floats = NDArray[np.float32]
MAX_TOP_K = 1000
MOST_SPARSE = 8192  # words of a text that a sparse vector weighs, far more than any does


@dataclass(frozen=True)
class EncodeTask(Generic[Result]):
    """A job to be, and the way from its results to the caller's.

    ``dropped`` are the tokens that were cut off each input; ``n_numbers`` is how many numbers the result has at most.
    """

    rows: Sequence[TextRows]
    reduction: Reduction
    finish: Callable[[list[Any]], Result]
    dropped: Sequence[int] = ()
    n_numbers: int = 0

    @property
    def n_tokens(self) -> int:
        """Return the tokens of all inputs, special tokens included."""
        return sum(len(row.tokens) for row in self.rows)


def embed(
    model: LoadedEncoder,
    texts: Sequence[Text],
    options: ReadOptions = PLAIN,
    *,
    prompt: str | None = None,
    dimensions: int | None = None,
    normalize: bool | None = None,
) -> EncodeTask[Floats]:
    """Make embeddings, float32 ``[n, dimensions]``.

    ``dimensions`` cuts them to the first so many and makes their length 1 again, for models that were trained for it.
    ``normalize`` overrides the model's own rule. Raises `RequestError`.
    """
    model.require("embed")
    width = _width(model, dimensions)
    inputs = read_texts(model, texts, options, prefix=prefix_of(model, prompt))

    reading = StateReading("embedding", dimensions, normalize, [each.prompt_rows for each in inputs.encoded])
    task = _task(model, inputs, "embed", reading, lambda found: _stack(found, width))
    return replace(task, n_numbers=len(task.rows) * width)


def token_vectors(
    model: LoadedEncoder, texts: Sequence[Text], options: ReadOptions = PLAIN, *, prompt: str | None = None
) -> EncodeTask[list[Floats]]:
    """Make one vector of each token, float32 ``[n, dimensions]`` for each text: a ColBERT's, or the states."""
    inputs = read_texts(model, texts, options, prefix=prefix_of(model, prompt))
    is_late = model.head.kind == "colbert"

    task = _task(model, inputs, "token_vectors", StateReading("logits" if is_late else "states"), list)
    return replace(task, n_numbers=task.n_tokens * (model.width if is_late else model.hidden_size))


def classify(
    model: LoadedEncoder, texts: Sequence[Text], options: ReadOptions = PLAIN
) -> EncodeTask[list[Classification]]:
    """Label whole texts; probabilities are a softmax, or one sigmoid each for a multi-label model."""
    model.require("classify")
    inputs = read_texts(model, texts, options)
    labels = label_names(model)

    def labelled(_index: int, scores: Floats) -> Classification:
        best = int(scores.argmax())
        return Classification(labels[best], float(scores[best]), dict(zip(labels, scores.tolist(), strict=True)))

    return _task(model, inputs, "classify", StateReading("probabilities"), list, labelled)


def label_scores(
    model: LoadedEncoder,
    inputs: Sequence[str | tuple[str, str]],
    options: ReadOptions = PLAIN,
    *,
    raw_scores: bool = False,
) -> EncodeTask[list[dict[str, float]]]:
    """Score each label of texts and of pairs of texts, by a classifier or a cross-encoder."""
    if model.head.kind not in ("sequence", "cross-encoder"):
        model.require("classify")
    read = EncoderInputs([_one_or_two(model, each, options, index) for index, each in enumerate(inputs)])
    labels = label_names(model)

    def named(_index: int, scores: Floats) -> dict[str, float]:
        return dict(zip(labels, scores.tolist(), strict=True))

    return _task(model, read, "classify", StateReading("logits" if raw_scores else "probabilities"), list, named)


def class_scores(model: LoadedEncoder, texts: Sequence[Text], options: ReadOptions = PLAIN) -> EncodeTask[list[Floats]]:
    """Score each label of each text, float32 ``[labels]``."""
    model.require("classify")
    inputs = read_texts(model, texts, options)
    return _task(model, inputs, "classify", StateReading("probabilities"), list)


def sparse(
    model: LoadedEncoder, texts: Sequence[Text], options: ReadOptions = PLAIN
) -> EncodeTask[list[tuple[list[int], list[float]]]]:
    """Give the tokens of a SPLADE model's vectors that weigh something, with their weights."""
    inputs = read_texts(model, texts, options)

    def weighed(_index: int, weights: Floats) -> tuple[list[int], list[float]]:
        tokens = np.flatnonzero(weights)
        return tokens.tolist(), weights[tokens].tolist()

    task = _task(model, inputs, "sparse", StateReading("logits"), list, weighed)
    return replace(task, n_numbers=len(task.rows) * min(model.width, MOST_SPARSE))


def token_scores(model: LoadedEncoder, texts: Sequence[Text], options: ReadOptions = PLAIN) -> EncodeTask[list[Floats]]:
    """Score each label of each token, float32 ``[n, labels]`` for each text."""
    model.require("tag")
    inputs = read_texts(model, texts, options)
    task = _task(model, inputs, "tag", StateReading("logits"), list, lambda _, logits: softmax(logits))
    return replace(task, n_numbers=task.n_tokens * len(label_names(model)))


def tag(
    model: LoadedEncoder, texts: Sequence[Text], options: ReadOptions = PLAIN, *, aggregation: Aggregation = "simple"
) -> EncodeTask[list[list[TaggedSpan]]]:
    """Label stretches of texts, with places in characters; ``aggregation`` as in transformers' pipeline."""
    model.require("tag")
    require_aggregation(aggregation)
    if not all(isinstance(text, str) for text in texts):
        raise FieldError(options.field, "must be texts: token ids have no places in a text")
    inputs = read_texts(model, texts, options)
    labels = label_names(model)

    def spans(index: int, logits: Floats) -> list[TaggedSpan]:
        return spans_of(str(texts[index]), inputs.encoded[index], softmax(logits), labels, aggregation)

    return _task(model, inputs, "tag", StateReading("logits"), list, spans)


def fill_mask(
    model: LoadedEncoder, texts: Sequence[Text], options: ReadOptions = PLAIN, *, top_k: int = 5
) -> EncodeTask[list[list[list[MaskFill]]]]:
    """Propose tokens for each mask of each text, likeliest first; a mask is written as the tokenizer writes it."""
    model.require("fill_mask")
    if not 1 <= top_k <= MAX_TOP_K:
        raise FieldError("top_k", f"must be a whole number from 1 to {MAX_TOP_K:,}, not {top_k!r}")
    mask = model.tokenizer.mask_id
    if mask is None:
        raise RequestError("the model's tokenizer has no mask token: choose a model that was trained with one")
    inputs = read_texts(model, texts, options, special=True)
    for index, encoded in enumerate(inputs.encoded, options.first):
        if mask not in encoded.tokens:
            written = model.tokenizer.token_text(mask).strip()
            raise FieldError(f"{options.field}[{index}]", f"has no mask: write {written} where a word is missing")

    places = [[place for place, token in enumerate(each.tokens) if token == mask] for each in inputs.encoded]

    def filled(index: int, logits: Floats) -> list[list[MaskFill]]:
        tokens = inputs.encoded[index].tokens
        rows = zip(places[index], softmax(logits), strict=True)
        return [_fills(model, tokens, place, row, top_k) for place, row in rows]

    return _task(model, inputs, "fill_mask", StateReading("logits", rows=places), list, filled)


# parts ----------------------------------------------------------------------------------------------


def label_names(model: LoadedEncoder) -> list[str]:
    """Return the labels of the model's head, `LABEL_0` and so on where its files name none."""
    head = model.head
    return list(head.labels) or [f"LABEL_{index}" for index in range(head.outputs)]


def _one_or_two(model: LoadedEncoder, given: str | tuple[str, str], options: ReadOptions, index: int) -> EncodedText:
    if isinstance(given, str):
        return read_texts(model, [given], replace(options, first=options.first + index)).encoded[0]
    return read_pair(model, *given, options, index)


def _task(
    model: LoadedEncoder,
    inputs: EncoderInputs,
    name: str,
    reading: StateReading,
    finish: Callable[[list[Any]], Result],
    then: Callable[[int, Floats], Any] = lambda _index, value: value,
) -> EncodeTask[Result]:
    return EncodeTask(inputs.rows, Reduction.of(model, name, reading, then), finish, inputs.dropped)


def _width(model: LoadedEncoder, dimensions: int | None) -> int:
    """Return how long embeddings are. Raises `FieldError` for lengths that the model was not trained for."""
    whole = model.width
    if dimensions is None or dimensions == whole:
        return whole
    if not model.dimensions:
        raise FieldError("dimensions", f"must be {whole} or left out: the model was not trained for shorter embeddings")
    lengths = model.dimensions
    is_known = dimensions in lengths if len(lengths) > 1 else lengths[0] <= dimensions <= whole
    if not is_known:
        expected = f"one of {', '.join(map(str, lengths))}" if len(lengths) > 1 else f"{lengths[0]} to {whole}"
        raise FieldError("dimensions", f"must be {expected}, not {dimensions!r}")
    return dimensions


def _stack(vectors: list[Any], width: int) -> Floats:
    return np.stack(vectors) if vectors else np.zeros((0, width), np.float32)


def _fills(model: LoadedEncoder, tokens: Sequence[int], place: int, scores: Floats, top_k: int) -> list[MaskFill]:
    count = min(top_k, len(scores))
    best = np.argpartition(-scores, count - 1)[:count]
    best = best[np.lexsort((best, -scores[best]))]  # of equals the lower id first
    fills = []
    for token in best.tolist():
        text = model.tokenizer.decode([*tokens[:place], token, *tokens[place + 1 :]])
        fills.append(MaskFill(token, model.tokenizer.token_text(token).strip(), float(scores[token]), text))
    return fills
