"""Survey of a model: what each matrix costs in each type, in nats of divergence from the original.

Owns the measurements that a choice of types rests on. Two are multiplied. Rounding a sample of a matrix's rows gives
its error in each type (with error feedback, as it will be rounded). Rounding the matrix alone in one type, and running
the model from its layer on, gives the divergence that an error of that size causes. Invariant: the model is changed by
one matrix at a time; the divergence of several is taken to be the sum, which the report card then checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.optimize.layerwise import Array, LayerwiseModel, Tokens, head_divergence
from miaotui.optimize.quantization.block_grids import kinds_for
from miaotui.optimize.quantization.rounding import Feedback, round_matrix, round_plainly
from miaotui.optimize.source import GgufSource, StoredMatrix
from miaotui.optimize.texts.calibration import Moments
from miaotui.types import Progress

REFERENCE = BlockType.Q4_0  # rounded to alone, to see what an error costs; its rows are blocks of 32
SAMPLE_ROWS = 96  # of a matrix, evenly spaced
LOOKUP_SHARE = 0.1  # of the mean moment, added for an embedding, whose rows are also looked up

Losses = Mapping[str, Mapping[BlockType, float]]


@dataclass(frozen=True)
class SurveyPlan:
    """Options of a survey: rows of tokens for the moments, and those that divergences are measured on."""

    calibration: Tokens
    probe: Tokens


def survey(source: GgufSource, plan: SurveyPlan, progress: Progress | None = None) -> Losses:
    """Return the loss of each matrix (by stored name) in each type that holds its rows."""
    model = LayerwiseModel(source.config, source.canonical())
    probe = _Probe(source, model, plan.probe)
    losses: dict[str, Mapping[BlockType, float]] = {}
    done = 0
    for layer, moments in layer_moments(source, model, plan.calibration):
        factors = FeedbackCache(moments)
        for matrix in (one for one in source.matrices if one.layer == layer):
            losses[matrix.name] = _losses(source, matrix, factors.of(matrix), probe)
            done += 1
            if progress is not None:
                progress("measuring what each matrix costs", done, len(source.matrices))
    return losses


class FeedbackCache:
    """Factors of the moments of one layer: products that share their inputs share them."""

    def __init__(self, moments: Moments) -> None:
        self._moments = moments
        self._last: tuple[str, Feedback] | None = None

    def of(self, matrix: StoredMatrix) -> Feedback:
        """Return the factors for ``matrix``; those of equal inputs where nothing was multiplied with it."""
        owner = self._moments.owner(matrix.product) or matrix.name
        if self._last is None or self._last[0] != owner:
            self._last = None  # before the next one takes memory
            self._last = owner, Feedback.of(hessian_of(self._moments, matrix))
        return self._last[1]


def hessian_of(moments: Moments, matrix: StoredMatrix) -> Array:
    """Return the second moment of a matrix's inputs; of an embedding, with its rows' own share."""
    found = moments.of(matrix.product)
    if found is None:
        return np.eye(matrix.cols, dtype=np.float32)
    if matrix.product == "embed":
        found[np.diag_indices(len(found))] += LOOKUP_SHARE * np.trace(found) / len(found)
    return found


def layer_moments(
    source: GgufSource, model: LayerwiseModel, texts: Tokens, after: Callable[[int], LayerwiseModel] | None = None
) -> Iterator[tuple[int, Moments]]:
    """Yield each layer and the moments of what its products read; last -1, for the embedding and the head.

    ``after`` gives the model that computes the stream behind a layer, once the layer was yielded (default: ``model``).
    """
    states = model.embedded(texts)
    for layer in range(source.config.n_layers):
        moments = Moments([one.product for one in source.matrices if one.layer == layer])
        behind = model.layer(states, layer, moments)
        yield layer, moments
        states = behind if after is None else after(layer).layer(states, layer)
    moments = Moments([one.product for one in source.matrices if one.layer < 0])
    for inputs in model.normed(states):
        moments(model.head_name, inputs)
    yield -1, moments


def _losses(source: GgufSource, matrix: StoredMatrix, feedback: Feedback, probe: _Probe) -> Mapping[BlockType, float]:
    stored = source.file.tensors[matrix.name]
    sample = stored.take_rows(np.linspace(0, matrix.rows - 1, min(SAMPLE_ROWS, matrix.rows)).astype(int)).float32()
    _, weights = round_plainly(sample, REFERENCE, np.diag(feedback.hessian).copy())
    rest = sample - weights
    energy = float(np.vdot(sample, sample @ feedback.hessian)) or 1.0
    reference = float(np.vdot(rest, rest @ feedback.hessian)) / energy
    nats = probe.divergence(matrix, feedback)
    if reference <= 0:  # all zeros
        return dict.fromkeys(kinds_for(matrix.cols), 0.0)
    return {
        kind: nats * round_matrix(sample, kind, feedback, sweeps=1).error / reference for kind in kinds_for(matrix.cols)
    }


class _Probe:
    """The original's streams on a few texts, from which a changed model's divergence is measured."""

    def __init__(self, source: GgufSource, model: LayerwiseModel, texts: Tokens) -> None:
        self._source, self._texts = source, texts
        self._before = [model.embedded(texts)]
        for layer in range(source.config.n_layers):
            self._before.append(model.layer(self._before[-1], layer))
        self._head = model.head()

    def divergence(self, matrix: StoredMatrix, feedback: Feedback) -> float:
        """Return the mean divergence, in nats, when ``matrix`` alone is rounded to `REFERENCE`."""
        source, stored = self._source, self._source.file.tensors[matrix.name]
        data = _rounded(stored, np.diag(feedback.hessian).copy())
        changed = LayerwiseModel(source.config, source.canonical({matrix.name: data}))
        states: Sequence[Array] = changed.embedded(self._texts) if matrix.layer < 0 else self._before[matrix.layer]
        for layer in range(max(matrix.layer, 0), source.config.n_layers):
            if matrix.layer < 0 and matrix.product == "head":
                states = self._before[-1]
                break
            states = changed.layer(states, layer)
        head = changed.head() if matrix.layer < 0 else self._head
        return float(head_divergence(self._head, self._before[-1], head, states, self._texts).kl.mean())


def _rounded(stored: StoredTensor, importance: Array) -> StoredTensor:
    """Return a stored matrix rounded plainly to `REFERENCE`, slice by slice."""
    step = max(1, (1 << 22) // stored.cols)
    parts = [
        round_plainly(stored.float32(start, start + step), REFERENCE, importance)[0]
        for start in range(0, stored.rows, step)
    ]
    return StoredTensor(stored.name, stored.shape, REFERENCE, np.concatenate(parts))
