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

from miaotui.errors import FieldError
from miaotui.tasks.calibration import CalibrationReport, Doubles, fit_temperature, report, softmax_rows
from miaotui.tasks.heads.kernel_ridge import KernelLayer
from miaotui.tasks.heads.logistic import Linear
from miaotui.tasks.heads.selection import (
    MOST_KERNEL_ROWS,
    RIDGE_TEMPERATURE,
    USUAL_PENALTY,
    Layer,
    NameRows,
    choose_layer,
    learning_weights,
    refit,
)

Floats = NDArray[np.float32]
Targets = NDArray[np.int64]
MAX_LABELS = 4096
MAX_LABEL_CHARACTERS = 512
MAX_EXAMPLES = 200_000
NAME_TEMPERATURE = 0.05  # of cosines with label names, until held-out examples give another one
KEPT_BYTES = 4 << 20  # of examples that a head keeps for learning more


@dataclass(frozen=True)
class ClassifierHead:
    """Layer over unit vectors ``[d]``, its labels, and the temperature of its probabilities.

    ``vectors [n, d]`` and ``targets [n]`` are the examples that it keeps; the first ``n_names`` are made of the labels'
    names or descriptions and count ``name_weight`` times. ``held_out`` has its figures on examples that were left out
    of the fit, None where there were none.
    """

    labels: tuple[str, ...]
    layer: Layer
    temperature: float
    source: Literal["examples", "label names"]
    encoder: str
    prompt: str | None
    vectors: Floats
    targets: Targets
    penalty: float = USUAL_PENALTY
    held_out: CalibrationReport | None = None
    n_names: int = 0
    name_weight: float = 1.0

    @property
    def calibrated(self) -> bool:
        """Return whether the temperature was fitted on held-out examples."""
        return self.held_out is not None

    @property
    def width(self) -> int:
        """Return the length of a vector."""
        return self.layer.width

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
        """Return the head with more examples; a label may be new. The temperature stays.

        Names of labels that a head was made of go on counting, and examples of a label without one count as much.
        """
        names = list(self.labels)
        names += [each for each in dict.fromkeys(labels) if each not in self.labels]
        check_labels(names)
        vectors = np.concatenate([self.vectors, _rounded(vectors)])
        targets = np.concatenate([self.targets, targets_of(labels, names)])
        is_fitted = self.source == "examples"
        most = MOST_KERNEL_ROWS if isinstance(self.layer, KernelLayer) else _room(self.width)
        kept = _kept(targets, most, self.n_names)
        layer, penalty = refit(
            vectors[kept],
            targets[kept],
            len(names),
            min(self.penalty, USUAL_PENALTY),
            self.layer if is_fitted else None,
            learning_weights(targets[kept], self.n_names, self.name_weight),
        )
        return replace(
            self,
            labels=tuple(names),
            layer=layer,
            penalty=penalty,
            source="examples",
            temperature=self.temperature if is_fitted else RIDGE_TEMPERATURE,
            held_out=self.held_out if is_fitted else None,
            vectors=vectors[kept],
            targets=targets[kept],
        )


def fit_head(
    vectors: Floats,
    labels: Sequence[str],
    *,
    encoder: str,
    prompt: str | None,
    order: Sequence[str] = (),
    names: Mapping[str, Floats] | None = None,
    are_descriptions: bool = False,
) -> ClassifierHead:
    """Fit a head to unit vectors ``[n, d]`` and their labels.

    Kind, penalty and temperature come from held-out examples, so that the probabilities are calibrated on examples
    that the fit did not see. ``order`` names the labels first; else they come in order of appearance. ``names`` are
    unit vectors ``[d]`` or ``[m, d]`` of the labels' names or descriptions, which few examples learn from if that
    helps; ``are_descriptions`` lets them weigh more. Raises `RequestError` for fewer than two labels.
    """
    known = list(dict.fromkeys([*order, *labels]))
    check_labels(known)
    if len(labels) > MAX_EXAMPLES:
        raise FieldError("labels", f"{len(labels):,} examples exceed {MAX_EXAMPLES:,}: give a sample")
    targets = targets_of(labels, known)
    absent = sorted(set(range(len(known))) - set(targets.tolist()))
    if absent:
        raise FieldError("labels", f"no example has the label {known[absent[0]]!r}: give at least one for each label")
    vectors = _rounded(vectors)
    named = None if names is None else _name_rows([np.atleast_2d(names[each]) for each in known], are_descriptions)
    chosen = choose_layer(vectors, targets, len(known), named)
    if chosen.n_names and named is not None:
        vectors = np.concatenate([named.vectors, vectors])
        targets = np.concatenate([named.targets, targets])
    kept = _kept(targets, _room(vectors.shape[1]), chosen.n_names)
    return ClassifierHead(
        tuple(known),
        chosen.layer,
        chosen.temperature,
        "examples",
        encoder,
        prompt,
        vectors[kept],
        targets[kept],
        chosen.penalty,
        chosen.held_out,
        chosen.n_names,
        chosen.name_weight,
    )


def _name_rows(names: Sequence[Floats], are_descriptions: bool) -> NameRows:
    """Return the rows of names or descriptions, ``[m, d]`` of each label."""
    targets = np.repeat(np.arange(len(names)), [len(each) for each in names])
    return NameRows(_rounded(np.concatenate(names)), targets, are_descriptions)


def head_of_names(
    vectors: Mapping[str, Floats], *, encoder: str, prompt: str | None, temperature: float = NAME_TEMPERATURE
) -> ClassifierHead:
    """Make a head without examples: a label's weight is the mean of its descriptions' unit vectors ``[m, d]``."""
    names = list(vectors)
    check_labels(names)
    weights = np.stack([unit(vectors[name].mean(axis=0)) for name in names])
    layer = Linear(weights, np.zeros(len(names), np.float32))
    return ClassifierHead(
        tuple(names),
        layer,
        temperature,
        "label names",
        encoder,
        prompt,
        _rounded(weights),
        np.arange(len(names)),
        n_names=len(names),
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


def unit(vector: Floats) -> Floats:
    """Return a vector of length 1 in the same direction."""
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)


def _rounded(vectors: Floats) -> Floats:
    """Return vectors as a file keeps them, so that a head learns alike before and after."""
    return vectors.astype(np.float16).astype(np.float32)


def _room(width: int) -> int:
    """Return how many examples of this width a head keeps."""
    return max(KEPT_BYTES // (2 * max(width, 1)), MOST_KERNEL_ROWS)


def _kept(targets: Targets, room: int, n_names: int) -> Targets:
    """Return the places of examples that a head keeps: names, and the newest of each label."""
    if len(targets) <= room:
        return np.arange(len(targets))
    each = max((room - n_names) // len(np.unique(targets)), 1)
    places = [n_names + np.flatnonzero(targets[n_names:] == target)[-each:] for target in np.unique(targets)]
    return np.concatenate([np.arange(n_names), np.sort(np.concatenate(places))])
