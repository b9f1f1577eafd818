"""Encoder whose matrices can be replaced, and the loss of its embeddings.

Owns which matrices may change their type, and the survey of what each costs. Knows no file that is written. The loss is
the mean of 1 - cosine between embeddings of a text. Invariant: the encoder is changed by one matrix at a time; the loss
of several is taken to be the sum, which the measurement of the file then checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from miaotui.closing import Closing
from miaotui.errors import UnsupportedModelError
from miaotui.hub.formats.tensors import BlockType
from miaotui.model.encoder.opened import open_encoder
from miaotui.model.encoder.oracle import EncoderOracle
from miaotui.model.encoder.pooling import Pooler
from miaotui.optimize.quantization.block_grids import kinds_for
from miaotui.optimize.quantization.rounding import Feedback, round_plainly
from miaotui.optimize.quantization.survey import REFERENCE, SAMPLE_ROWS, relative_errors
from miaotui.types import Progress

Array = NDArray[np.float32]
Watch = Callable[[str, Array], None]
LEAST_ROWS = 8  # of a matrix that changes: tables of types and heads stay


class TypeOption(NamedTuple):
    """A type that a matrix may have, the bytes that it takes then, and what that costs."""

    kind: BlockType
    size_bytes: int
    loss: float


class Embedding(Protocol):
    """An encoder of texts or sounds, as a survey sees it: float32 ``weights``, and the ``matrices`` among them that may
    change their type.
    """

    weights: dict[str, Array]
    matrices: list[str]

    def embeddings(self, inputs: Sequence[Any], replaced: Mapping[str, Array], watch: Watch | None = None) -> Array:
        """Return the embeddings of ``inputs``, ``[n, dimensions]``, with other weights in some matrices."""


class MeasuredEncoder(Closing):
    """An encoder of texts. Raises a `ModelError` for what cannot be read or makes no embeddings."""

    def __init__(self, path: Path) -> None:
        self.opened = open_encoder(path)
        if self.opened.pooling is None:
            self.close()
            raise UnsupportedModelError(f"{path} makes no embeddings, by which a loss could be measured")
        self.config = self.opened.config
        self.weights: dict[str, Array] = {name: self.opened.weights[name].float32() for name in self.opened.weights}
        self.pooler = Pooler(self.opened.pooling, self.weights, self.config.hidden_size)
        self.matrices = [
            name
            for name, weights in self.weights.items()
            if weights.ndim == 2 and kinds_for(weights.shape[1]) and len(weights) > LEAST_ROWS
        ]

    def close(self) -> None:
        """Close the files."""
        self.opened.close()

    def embeddings(self, inputs: Sequence[Any], replaced: Mapping[str, Array], watch: Watch | None = None) -> Array:
        """Return the embeddings ``[texts, dimensions]`` of texts as tokens."""
        oracle = EncoderOracle(self.config, {**self.weights, **replaced}, watch)
        return np.array([self.pooler.embedding(oracle.states(tokens)) for tokens in inputs])


def cosine_loss(first: Array, second: Array) -> Array:
    """Return 1 - cosine of each pair of embeddings."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    found: Array = 1 - (first * second).sum(1) / norms
    return found


def importance_of(hessian: Array | None, cols: int) -> Array:
    """Return the importance of each input; ones where the inputs were not seen."""
    return np.ones(cols, np.float32) if hessian is None else np.diag(hessian).copy()


def feedback_of(hessian: Array | None, cols: int, rows: int) -> Feedback:
    """Return the factors for error feedback, from a moment over ``rows`` rows."""
    return Feedback.of(np.eye(cols, dtype=np.float32)) if hessian is None else Feedback.of(hessian, rows)


def type_options(
    encoder: Embedding,
    hessians: Mapping[str, Array | None],
    probes: Sequence[Any],
    rows: int,
    progress: Progress | None = None,
) -> dict[str, list[TypeOption]]:
    """Return each matrix's types with their bytes and what they cost, as `survey` does for decoders.

    ``hessians`` are moments of the matrices' inputs over ``rows`` rows; the cost is measured on ``probes``.
    """
    base, found = encoder.embeddings(probes, {}), {}
    for number, name in enumerate(encoder.matrices):
        weights, hessian = encoder.weights[name], hessians[name]
        changed = round_plainly(weights, REFERENCE, importance_of(hessian, weights.shape[1]))[1]
        cost = float(cosine_loss(base, encoder.embeddings(probes, {name: changed})).mean())
        sample = weights[np.linspace(0, len(weights) - 1, min(SAMPLE_ROWS, len(weights))).astype(int)]
        errors = relative_errors(sample, feedback_of(hessian, weights.shape[1], rows))
        size = len(weights), weights.shape[1]
        found[name] = [TypeOption(kind, size[0] * kind.row_bytes(size[1]), cost * x) for kind, x in errors.items()]
        if progress is not None:
            progress("measuring what each matrix costs", number + 1, len(encoder.matrices))
    return found
