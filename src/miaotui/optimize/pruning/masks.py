"""Masks over single weights (Wanda), measured, so that a report can say what they are worth here.

Owns the mask and its measurement. A weight goes where ``|weight| * |input|`` is smallest in its row (Sun et al. 2023,
equation 1). Knows no files: nothing is written, since zeros in blocks take as many bytes and as much time as other
weights. Invariant: the bytes are the least that a mask could take, one bit a weight and the kept weights as stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from miaotui.errors import RequestError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.optimize.card import QualityLoss, quality_loss
from miaotui.optimize.layerwise import Array, LayerwiseModel, Tokens, head_divergence
from miaotui.optimize.loss_meter import LossMeter
from miaotui.optimize.pruning.pruned_file import float16_tensor
from miaotui.optimize.source import GgufSource
from miaotui.optimize.texts.calibration import Moments
from miaotui.types import Progress


@dataclass(frozen=True)
class MaskedLoss:
    """Loss of a model of whose layers' weights ``share`` are zero; ``least_bytes`` is of a file with bitmaps."""

    share: float
    quality: QualityLoss
    least_bytes: int


def masked_loss(
    source: GgufSource, calibration: Tokens, meter: LossMeter, share: float, progress: Progress | None = None
) -> MaskedLoss:
    """Measure the loss of a mask over the texts of ``meter``."""
    if not 0 < share < 1:
        raise RequestError(f"a mask leaves out a share of the weights between 0 and 1, not {share}")
    model = LayerwiseModel(source.config, source.canonical())
    known, held_out = model.embedded(calibration), model.embedded(meter.rows)
    saved = 0.0
    for layer in range(source.config.n_layers):
        tensors = _layer(model, layer)
        products = [name for name, one in tensors.items() if len(one.shape) > 1 and "router" not in name]
        moments = Moments(products)
        model.layer(known, layer, moments)
        masked = {}
        for name in products:
            moment, weights = moments.of(name), tensors[name].float32()
            norms = np.ones(weights.shape[1], np.float32) if moment is None else np.sqrt(np.diag(moment))
            masked[name] = float16_tensor(name, wanda_masked(weights, norms, share))
        for one in (one for one in source.matrices if one.layer == layer):
            kind = source.file.tensors[one.name].kind
            saved += one.rows * one.cols * (share * 8 * kind.block_bytes / kind.block_size - 1) / 8
        variant = LayerwiseModel(source.config, {**tensors, **masked})
        known, held_out = variant.layer(known, layer), variant.layer(held_out, layer)
        if progress is not None:
            progress("masking weights", layer + 1, source.config.n_layers)
    found = head_divergence(model.head(), meter.states, model.head(), held_out, meter.rows)
    return MaskedLoss(share, quality_loss(found), int(source.path.stat().st_size - saved))


def wanda_masked(weights: Array, norms: Array, share: float) -> Array:
    """Return ``weights [rows, cols]`` with the least important share of each row set to zero.

    ``norms [cols]`` are the root mean squares of the inputs.
    """
    count = round(share * weights.shape[1])
    scores = np.abs(weights) * norms
    found: Array = weights.copy()
    if count:
        np.put_along_axis(found, np.argpartition(scores, count - 1, axis=1)[:, :count], np.float32(0), axis=1)
    return found


def _layer(model: LayerwiseModel, layer: int) -> Mapping[str, StoredTensor]:
    return {name: model.tensors[name] for name in model.tensors if name.startswith(f"layers.{layer}.")}
