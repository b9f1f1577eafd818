"""Order of an encoder's channels by their size, so that 8-bit activations lose little.

A few channels are far larger than the others after a norm. Where 32 channels share a scale, one such channel takes the
bits of 31 others. Put in order of size, the large ones share a scale with each other. The order is exact: all tensors
that the residual stream touches are permuted alike, and the states are put back at the end. Knows tensors, not passes.
Invariant: an ordered model has the states of the model as it was, permuted.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.names import encoder_shapes

Tensors = Mapping[str, StoredTensor]
Order = NDArray[np.int64]
_INPUTS = frozenset(("embed", "position_embed", "type_embed", "q", "k", "v", "gate", "up"))  # by column
_OUTPUTS = frozenset(("o", "down"))  # by row
_VECTORS = frozenset(("embed_norm", "attn_norm", "ffn_norm", "final_norm", "o", "down"))  # and their biases


class OrderedTensor(StoredTensor):
    """A matrix of floats whose columns are read in another order."""

    _order: Order

    def __init__(self, tensor: StoredTensor, order: Order) -> None:
        super().__init__(tensor.name, tensor.shape, tensor.kind, tensor.data)
        object.__setattr__(self, "_order", order)

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Decode rows [start, stop) to a new float32 array (rows, cols)."""
        return np.ascontiguousarray(super().float32(start, stop)[..., self._order])


def channel_order(config: EncoderConfig, tensors: Tensors) -> Order | None:
    """Return the channels, smallest first, by the root mean square of what the norms leave in them; None where they
    cannot be put in order: blocks of weights that are quantized already, projected embeddings, relative positions.
    """
    if config.embedding_size != config.hidden_size or config.position == "disentangled":
        return None
    if not all(tensors[name].kind.is_float for name in encoder_shapes(config)):
        return None
    power = np.zeros(config.hidden_size)
    for name in encoder_shapes(config):
        part = name.rpartition(".")[2]
        if part.removesuffix("_bias").endswith("_norm"):
            values = tensors[name].float32().reshape(-1).astype(np.float64)
            power += values * values
    return np.argsort(power, kind="stable")


def in_order(config: EncoderConfig, tensors: Tensors, order: Order) -> dict[str, StoredTensor]:
    """Return the tensors of the same model with its channels in another order."""
    return {name: _one_in_order(name.rpartition(".")[2], tensors[name], order) for name in encoder_shapes(config)}


def _one_in_order(name: str, tensor: StoredTensor, order: Order) -> StoredTensor:
    if name in _INPUTS:
        return OrderedTensor(tensor, order)
    if name in _OUTPUTS or (name.removesuffix("_bias") in _VECTORS and len(tensor.shape) == 1):
        return tensor.take_rows(order)
    return tensor
