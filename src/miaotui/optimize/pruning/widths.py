"""Heads and feed-forward channels that are best left out of each layer, and the outputs that make up for them.

Owns the choice and the correction. An input's part of a product's result is weighed by the moment of the inputs, ``H``:
leaving column ``i`` out of ``W`` and changing the others to make up for it costs ``|W_i|^2 / [H^-1]_ii`` (Hassibi and
Stork 1993; for whole columns Kurtic et al. 2023, ZipLM). The others become ``W H_:S (H_SS)^-1``. Knows no files.
Invariant: as many heads and channels stay in every layer; with all of them nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.optimize.layerwise import LayerwiseModel, Tokens
from miaotui.optimize.pruning.pruned_file import LayerWidths, float16_tensor
from miaotui.optimize.pruning.shape import PrunedShape
from miaotui.optimize.source import GgufSource, StoredMatrix
from miaotui.optimize.texts.calibration import Moments
from miaotui.types import Progress

Array = NDArray[np.float32]
DAMPING = 0.01  # of the mean diagonal
STEPS = 4  # in which columns are left out


def kept_widths(
    source: GgufSource, shape: PrunedShape, texts: Tokens, progress: Progress | None = None
) -> tuple[dict[int, LayerWidths], dict[str, Array]]:
    """Return heads and channels of each layer that stay, and the matrices that read them, corrected, by stored name.

    Each layer's inputs are those that the pruned layers before it make.
    """
    config = source.config
    group = config.n_heads // config.n_kv_heads * config.value_dim
    kept: dict[int, LayerWidths] = {}
    replaced: dict[str, Array] = {}
    model = LayerwiseModel(config, source.canonical())
    states = model.embedded(texts)
    for number, layer in enumerate(shape.layers):
        names = [f"layers.{layer}.o", f"layers.{layer}.down"]
        moments = Moments(names)
        model.layer(states, layer, moments)
        heads: Sequence[int] = range(config.n_kv_heads)
        channels: Sequence[int] = range(config.ffn_size)
        changed: dict[str, Array] = {}
        for name, unit, count in ((names[0], group, shape.kv_heads), (names[1], 1, shape.ffn)):
            matrix, moment = _matrix(source, name), moments.of(name)
            weights = model.tensors[name].float32()
            assert moment is not None, "a product of every layer"
            chosen, corrected = choose_columns(weights, moment, unit, count)
            if len(chosen) * unit < weights.shape[1]:
                changed[name], replaced[matrix.name] = corrected, corrected
            heads, channels = (chosen, channels) if name == names[0] else (heads, chosen)
        kept[layer] = LayerWidths(heads, channels)
        states = _without(model, changed).layer(states, layer)
        if progress is not None:
            progress("leaving out heads and channels", number + 1, len(shape.layers))
    return kept, replaced


def choose_columns(weights: Array, moment: Array, unit: int, count: int) -> tuple[list[int], Array]:
    """Return the ``count`` groups of ``unit`` columns that stay, and the matrix without the others' parts (zeros).

    Groups go one after another, the cheapest first, in `STEPS` steps.
    """
    cols = weights.shape[1]
    hessian = moment.astype(np.float64)
    hessian[np.diag_indices(cols)] += DAMPING * np.trace(hessian) / cols
    stays = np.arange(cols // unit)
    current = weights.astype(np.float64)
    while len(stays) > count:
        columns = (stays[:, None] * unit + np.arange(unit)).reshape(-1)
        part = hessian[np.ix_(columns, columns)]
        current = (weights @ np.linalg.solve(part, hessian[columns]).T).astype(np.float64)
        costs = _group_costs(current, np.linalg.inv(part).astype(np.float64), unit)
        drop = max(1, min(len(stays) - count, -(-(cols // unit - count) // STEPS)))
        stays = np.sort(stays[np.argsort(costs, kind="stable")[drop:]])
    columns = (stays[:, None] * unit + np.arange(unit)).reshape(-1)
    corrected = np.zeros_like(weights)
    if len(columns) == cols:
        return [int(each) for each in stays], weights
    solved = np.linalg.solve(hessian[np.ix_(columns, columns)], hessian[columns])
    corrected[:, columns] = (weights @ solved.T).astype(np.float32)
    return [int(each) for each in stays], corrected


def _group_costs(weights: NDArray[np.float64], inverse: NDArray[np.float64], unit: int) -> NDArray[np.float64]:
    """Return what each group of columns costs when the others make up for it: ``tr(W_g (H^-1_gg)^-1 W_g^T)``."""
    if unit == 1:
        found: NDArray[np.float64] = (weights * weights).sum(0) / np.diag(inverse)
        return found
    groups = range(0, weights.shape[1], unit)
    costs = []
    for start in groups:
        group, own = weights[:, start : start + unit], inverse[start : start + unit, start : start + unit]
        costs.append(float(np.vdot(group, np.linalg.solve(own, group.T).T)))
    return np.array(costs)


def _matrix(source: GgufSource, product: str) -> StoredMatrix:
    return next(one for one in source.matrices if one.product == product)


def _without(model: LayerwiseModel, changed: dict[str, Array]) -> LayerwiseModel:
    tensors = {**model.tensors, **{name: float16_tensor(name, values) for name, values in changed.items()}}
    return LayerwiseModel(model.config, tensors)
