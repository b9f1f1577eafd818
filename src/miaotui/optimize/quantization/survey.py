"""Survey of a model: what each matrix costs in each type, in nats of divergence from the original.

Owns the measurements that a choice of types rests on. Two are multiplied. Rounding a sample of a matrix's rows gives
its error in each type (as it will be with error feedback). Rounding the matrix alone in one type, and running the model
from its layer on, gives the divergence that an error of that size causes. Invariant: the model is changed by
one matrix at a time; the divergence of several is taken to be the sum, which the report card then checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.model.oracle import Oracle
from miaotui.optimize.layerwise import Array, LayerwiseModel, Tokens, divergences, log_probabilities
from miaotui.optimize.quantization.block_grids import kinds_for
from miaotui.optimize.quantization.rounding import Feedback, round_plainly
from miaotui.optimize.source import GgufSource, StoredMatrix
from miaotui.optimize.texts.calibration import Moments
from miaotui.types import Progress

REFERENCE = BlockType.Q4_0  # rounded to alone, to see what an error costs; its rows are blocks of 32
SAMPLE_ROWS = 96  # of a matrix, evenly spaced
LOOKUP_SHARE = 1.0  # of an embedding that is also the output matrix, where it was not measured

Losses = Mapping[str, Mapping[BlockType, float]]


@dataclass(frozen=True)
class SurveyPlan:
    """Options of a survey: rows of tokens for the moments, and those that divergences are measured on."""

    calibration: Tokens
    probe: Tokens


@dataclass(frozen=True)
class Survey:
    """Outcome of a survey: the loss of each matrix (by stored name) in each type, in nats.

    ``lookup_share`` says how much the looked up rows of an embedding that is also the output matrix count: that many
    times the mean moment of the output's inputs (see `hessian_of`).
    """

    losses: Losses
    lookup_share: float = LOOKUP_SHARE


def survey(source: GgufSource, plan: SurveyPlan, progress: Progress | None = None) -> Survey:
    """Measure what each matrix costs in each type that holds its rows."""
    model = LayerwiseModel(source.config, source.canonical())
    probe = _Probe(source, model, plan.probe)
    errors: dict[str, Mapping[BlockType, float]] = {}
    share = LOOKUP_SHARE
    for layer, moments in layer_moments(source, model, plan.calibration):
        probe.advance(layer)
        matrices = [one for one in source.matrices if one.layer == layer]
        if layer < 0:
            probe.change_head(matrices)
            share = _lookup_share(source, moments, probe.divergences())
        for matrix, feedback in with_feedback(matrices, moments, share):
            errors[matrix.name] = relative_errors(_sample(source.file.tensors[matrix.name]), feedback)
            if layer >= 0:
                probe.change(matrix, feedback)
            if progress is not None:
                progress("finding what each matrix costs", len(errors), len(source.matrices))
    nats = {name: sum(both) for name, both in probe.divergences().items()}
    losses = {name: {kind: nats[name] * error for kind, error in row.items()} for name, row in errors.items()}
    return Survey(losses, share)


def _lookup_share(source: GgufSource, moments: Moments, nats: Mapping[str, tuple[float, float]]) -> float:
    """Return the share by which the errors of looked up rows and of the output add up to their nats."""
    matrix = next((one for one in source.matrices if one.product == "embed"), None)
    moment = None if matrix is None else moments.of("embed")
    if matrix is None or moment is None:
        return LOOKUP_SHARE
    sample = _sample(source.file.tensors[matrix.name])
    rest = sample - round_plainly(sample, REFERENCE, np.ones(matrix.cols, np.float32))[1]
    looked_up, output = nats[matrix.name]
    output_error = float(np.vdot(rest, rest @ moment))
    if min(looked_up, output, output_error) <= 0:
        return LOOKUP_SHARE
    ratio = looked_up / float(np.vdot(rest, rest)) / (output / output_error)
    return float(np.clip(ratio / (np.trace(moment) / len(moment)), 1e-3, 1e3))


def with_feedback(
    matrices: Iterable[StoredMatrix], moments: Moments, lookup_share: float
) -> Iterator[tuple[StoredMatrix, Feedback]]:
    """Yield the matrices of one layer with the factors of their inputs' moments, which those of equal inputs share."""
    last: tuple[str, Feedback] | None = None
    owners = [(moments.owner(one.product) or one.name, one) for one in matrices]
    for owner, matrix in sorted(owners, key=lambda pair: pair[0]):
        if last is None or last[0] != owner:
            last = None  # before the next one takes memory
            last = owner, Feedback.of(hessian_of(moments, matrix, lookup_share), moments.tokens(matrix.product))
        yield matrix, last[1]


def hessian_of(moments: Moments, matrix: StoredMatrix, lookup_share: float = LOOKUP_SHARE) -> Array:
    """Return the second moment of a matrix's inputs; of an embedding, with its rows' own share."""
    found = moments.of(matrix.product)
    if found is None:
        return np.eye(matrix.cols, dtype=np.float32)
    if matrix.product == "embed":
        found[np.diag_indices(len(found))] += lookup_share * np.trace(found) / len(found)
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


def relative_errors(sample: Array, feedback: Feedback) -> Mapping[BlockType, float]:
    """Return the error of each type with feedback, relative to that of plain rounding to `REFERENCE`.

    ``sample [rows, cols]`` are some rows of a matrix.

    With feedback the error is the sum of each column's own rounding error, weighed by its part of the diagonal ``D``
    (Chee et al. 2023, lemma 2), which a sample of rows shows without any feedback.
    """
    rest = sample - round_plainly(sample, REFERENCE, np.diag(feedback.hessian).copy())[1]
    reference = float(np.vdot(rest, rest @ feedback.hessian))

    def error(kind: BlockType) -> float:
        own = sample - round_plainly(sample, kind, feedback.diagonal)[1]
        return float(np.vdot(own * feedback.diagonal, own))

    return {kind: error(kind) / reference if reference else 0.0 for kind in kinds_for(sample.shape[1])}


def _sample(stored: StoredTensor) -> Array:
    """Return `SAMPLE_ROWS` rows of a matrix, evenly spaced."""
    return stored.take_rows(np.linspace(0, stored.rows - 1, min(SAMPLE_ROWS, stored.rows)).astype(int)).float32()


class _Probe:
    """Streams of a few texts in the original and in variants of it, each with one matrix rounded to `REFERENCE`.

    All variants pass a layer together, so that its weights are decoded once.
    """

    def __init__(self, source: GgufSource, model: LayerwiseModel, texts: Tokens) -> None:
        self._source, self._model, self._texts = source, model, texts
        self._base = model.embedded(texts)
        self._variants: dict[str, list[Array]] = {}
        for matrix in (one for one in source.matrices if one.product == "embed"):
            changed = self._changed(matrix, np.ones(matrix.cols, np.float32))
            self._variants[matrix.name] = changed.embedded(texts)
        self._heads: dict[str, LayerwiseModel] = {}
        self._found: Mapping[str, tuple[float, float]] = {}
        self._behind = self._base  # the layer that was reached

    def advance(self, layer: int) -> None:
        """Compute all streams behind ``layer``; those before it stay known until the next call."""
        self._base = self._behind
        if layer < 0:
            return
        names, count = list(self._variants), len(self._texts)
        states = [*self._base, *(state for name in names for state in self._variants[name])]
        found = self._model.layer(states, layer)
        self._behind = found[:count]
        for number, name in enumerate(names, 1):
            self._variants[name] = found[number * count : (number + 1) * count]

    def change(self, matrix: StoredMatrix, feedback: Feedback) -> None:
        """Add the variant in which ``matrix``, of the layer that was passed last, is rounded."""
        changed = self._changed(matrix, np.diag(feedback.hessian).copy())
        self._variants[matrix.name] = changed.layer(self._base, matrix.layer)

    def change_head(self, matrices: Iterable[StoredMatrix]) -> None:
        """Add the variant in which the output matrix alone is rounded, all inputs alike."""
        for matrix in (one for one in matrices if one.product == self._model.head_name):
            self._heads[matrix.name] = self._changed(matrix, np.ones(matrix.cols, np.float32))

    def divergences(self) -> Mapping[str, tuple[float, float]]:
        """Return the mean divergence of each variant from the original, in nats: of its stream, and of its head."""
        if self._found.keys() != self._variants.keys() | self._heads.keys():
            head = self._model.head()
            base = log_probabilities(head.head(np.concatenate(self._base)))

            def nats(other: Oracle, states: list[Array]) -> float:
                return float(divergences(base, log_probabilities(other.head(np.concatenate(states)))).mean())

            streams = {name: nats(head, states) for name, states in self._variants.items()}
            heads = {name: nats(model.head(), self._base) for name, model in self._heads.items()}
            self._found = {n: (streams.get(n, 0.0), heads.get(n, 0.0)) for n in streams.keys() | heads.keys()}
        return self._found

    def _changed(self, matrix: StoredMatrix, importance: Array) -> LayerwiseModel:
        data = _rounded(self._source.file.tensors[matrix.name], importance)
        return LayerwiseModel(self._source.config, self._source.canonical({matrix.name: data}))


def _rounded(stored: StoredTensor, importance: Array) -> StoredTensor:
    """Return a stored matrix rounded plainly to `REFERENCE`, slice by slice."""
    step = max(1, (1 << 22) // stored.cols)
    parts = [
        round_plainly(stored.float32(start, start + step), REFERENCE, importance)[0]
        for start in range(0, stored.rows, step)
    ]
    return StoredTensor(stored.name, stored.shape, REFERENCE, np.concatenate(parts))
