"""A classifier's head over frozen embeddings: fitted to examples, or made of vectors of label names.

Owns fitting, learning one more example, held-out calibration, and the answer for one vector. Knows neither texts nor
encoders (only the name and the width of the one that made its vectors). Invariant: a vector's probabilities depend on
that vector and the head alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import FieldError, RequestError
from miaotui.tasks.calibration import CalibrationReport, Doubles, fit_temperature, report, softmax_rows
from miaotui.tasks.logistic import Linear, fit_logistic

Floats = NDArray[np.float32]
Targets = NDArray[np.int64]
MAX_LABELS = 4096
MAX_LABEL_CHARACTERS = 512
MAX_EXAMPLES = 200_000
FOLDS = 5
PENALTIES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)  # of the mean loss, strongest first
NAME_TEMPERATURE = 0.05  # of cosines with label names, until held-out examples give another one
KEPT_BYTES = 4 << 20  # of examples that a head keeps for learning more


@dataclass(frozen=True)
class ClassifierHead:
    """Linear layer over unit vectors ``[d]``, its labels, and the temperature of its probabilities.

    ``vectors [n, d]`` and ``targets [n]`` are the examples that it keeps; ``held_out`` has its figures on examples that
    were left out of the fit, None where there were none.
    """

    labels: tuple[str, ...]
    layer: Linear
    temperature: float
    source: Literal["examples", "label names"]
    encoder: str
    prompt: str | None
    vectors: Floats
    targets: Targets
    penalty: float = PENALTIES[2]
    held_out: CalibrationReport | None = None

    @property
    def calibrated(self) -> bool:
        """Return whether the temperature was fitted on held-out examples."""
        return self.held_out is not None

    @property
    def width(self) -> int:
        """Return the length of a vector."""
        return int(self.layer.weights.shape[1])

    def probabilities(self, vectors: Floats) -> Doubles:
        """Return the probability of each label, float64 ``[n, labels]``, for ``vectors [n, d]``."""
        return softmax_rows(self.layer.logits(vectors), self.temperature)

    def calibrate(self, vectors: Floats, labels: Sequence[str]) -> ClassifierHead:
        """Return the head with a temperature fitted on held-out examples. Raises `RequestError`."""
        targets = targets_of(labels, self.labels)
        logits = self.layer.logits(vectors)
        temperature = fit_temperature(logits, targets)
        return replace(self, temperature=temperature, held_out=report(logits, targets, temperature))

    def learn(self, vectors: Floats, labels: Sequence[str]) -> ClassifierHead:
        """Return the head with more examples, beginning where it is; a label may be new. Temperature stays."""
        names = list(self.labels)
        names += [each for each in dict.fromkeys(labels) if each not in self.labels]
        check_labels(names)
        vectors = np.concatenate([self.vectors, vectors])
        targets = np.concatenate([self.targets, targets_of(labels, names)])
        start = self.layer if self.source == "examples" else None
        layer = fit_logistic(vectors, targets, len(names), self.penalty, weight=balance(targets), start=start)
        kept = _kept(targets, self.width)
        return replace(
            self,
            labels=tuple(names),
            layer=layer,
            source="examples",
            temperature=self.temperature if self.source == "examples" else 1.0,
            held_out=self.held_out if self.source == "examples" else None,
            vectors=_rounded(vectors[kept]),
            targets=targets[kept],
        )


def fit_head(
    vectors: Floats, labels: Sequence[str], *, encoder: str, prompt: str | None, order: Sequence[str] = ()
) -> ClassifierHead:
    """Fit a head to unit vectors ``[n, d]`` and their labels.

    The penalty and the temperature come from cross-validation, so that the probabilities are calibrated on examples
    that the fit did not see. ``order`` names the labels first; else they come in order of appearance. Raises
    `RequestError` for fewer than two labels.
    """
    names = list(dict.fromkeys([*order, *labels]))
    check_labels(names)
    if len(labels) > MAX_EXAMPLES:
        raise FieldError("labels", f"{len(labels):,} examples exceed {MAX_EXAMPLES:,}: give a sample")
    targets = targets_of(labels, names)
    absent = [name for index, name in enumerate(names) if index not in set(targets.tolist())]
    if absent:
        raise FieldError("labels", f"no example has the label {absent[0]!r}: give at least one for each label")
    penalty, temperature, held_out = _validate(vectors, targets, len(names))
    layer = fit_logistic(vectors, targets, len(names), penalty, weight=balance(targets))
    kept = _kept(targets, vectors.shape[1])
    return ClassifierHead(
        tuple(names),
        layer,
        temperature,
        "examples",
        encoder,
        prompt,
        _rounded(vectors[kept]),
        targets[kept],
        penalty,
        held_out,
    )


def head_of_names(
    vectors: Mapping[str, Floats], *, encoder: str, prompt: str | None, temperature: float = NAME_TEMPERATURE
) -> ClassifierHead:
    """Make a head without examples: a label's weight is the mean of its descriptions' unit vectors ``[m, d]``."""
    names = list(vectors)
    check_labels(names)
    weights = np.stack([unit(vectors[name].mean(axis=0)) for name in names])
    empty = np.zeros((0, weights.shape[1]), np.float32)
    layer = Linear(weights, np.zeros(len(names), np.float32))
    return ClassifierHead(
        tuple(names), layer, temperature, "label names", encoder, prompt, empty, np.zeros(0, np.int64)
    )


def check_labels(labels: Sequence[str], field: str = "labels") -> None:
    """Raise `FieldError` for labels that are missing, no text, too long, or twice, and for fewer than two."""
    seen: dict[str, int] = {}
    for index, label in enumerate(labels):
        name = f"{field}[{index}]"
        if not isinstance(label, str) or not label.strip():
            raise FieldError(name, f"must be a text that is not empty, not {label!r}")
        if len(label) > MAX_LABEL_CHARACTERS:
            raise FieldError(name, f"has {len(label):,} characters, and at most {MAX_LABEL_CHARACTERS} may be")
        if label in seen:
            raise FieldError(name, f"{label!r} is there twice: {field}[{seen[label]}] is the first")
        seen[label] = index
    if not 2 <= len(labels) <= MAX_LABELS:
        raise FieldError(field, f"must name 2 to {MAX_LABELS:,} labels, not {len(labels)}")


def targets_of(labels: Sequence[str], names: Sequence[str]) -> Targets:
    """Return the places ``[n]`` of labels among ``names``. Raises `FieldError` for one that is not there."""
    places = {name: place for place, name in enumerate(names)}
    for index, label in enumerate(labels):
        if label not in places:
            raise FieldError(f"labels[{index}]", f"{label!r} is none of the head's labels: {', '.join(names[:20])}")
    return np.array([places[label] for label in labels], np.int64)


def balance(targets: Targets) -> Floats:
    """Return weights ``[n]`` under which rare labels count between their share and an equal one."""
    counts = np.bincount(targets)
    return np.asarray(1.0 / np.sqrt(counts[targets]), np.float32)


def unit(vector: Floats) -> Floats:
    """Return a vector of length 1 in the same direction."""
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)


def _validate(vectors: Floats, targets: Targets, n_labels: int) -> tuple[float, float, CalibrationReport | None]:
    """Return penalty and temperature by cross-validation, with the held-out figures; defaults without enough."""
    folds = fold_numbers(targets)
    n_folds = int(folds.max(initial=-1)) + 1
    if n_folds < 2:
        return PENALTIES[2], 1.0, None
    held = np.flatnonzero(folds >= 0)
    logits = {penalty: np.zeros((len(targets), n_labels), np.float32) for penalty in PENALTIES}
    for fold in range(n_folds):
        out = folds == fold
        layer = None
        for penalty in PENALTIES:
            inside = targets[~out]
            layer = fit_logistic(vectors[~out], inside, n_labels, penalty, weight=balance(inside), start=layer)
            logits[penalty][out] = layer.logits(vectors[out])
    best: tuple[float, float, float, CalibrationReport] | None = None
    for penalty, rows in logits.items():
        temperature = fit_temperature(rows[held], targets[held])
        found = report(rows[held], targets[held], temperature)
        if best is None or found.log_loss < best[0]:
            best = found.log_loss, penalty, temperature, found
    if best is None:
        raise RequestError("no penalty was tried")
    return best[1], best[2], best[3]


def fold_numbers(targets: Targets) -> Targets:
    """Return each example's fold ``[n]``: those of a label are dealt out in turn; -1: always in the fit."""
    counts = np.bincount(targets)
    folds = np.full(len(targets), -1, np.int64)
    n_folds = min(FOLDS, int(counts[counts > 0].max(initial=0)))
    if n_folds < 2:
        return folds
    dealt = np.zeros(len(counts), np.int64)
    for place, target in enumerate(targets):
        if counts[target] > 1:
            folds[place] = (dealt[target] + target) % n_folds
            dealt[target] += 1
    return folds


def _rounded(vectors: Floats) -> Floats:
    """Return vectors as a file keeps them, so that a head learns alike before and after."""
    return vectors.astype(np.float16).astype(np.float32)


def _kept(targets: Targets, width: int) -> Targets:
    """Return the places of examples that a head keeps: the newest of each label, as far as they fit `KEPT_BYTES`."""
    room = max(KEPT_BYTES // (2 * max(width, 1)), 1)
    if len(targets) <= room:
        return np.arange(len(targets))
    each = max(room // len(np.unique(targets)), 1)
    places = [np.flatnonzero(targets == target)[-each:] for target in np.unique(targets)]
    return np.sort(np.concatenate(places))
