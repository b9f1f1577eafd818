"""One gated feed-forward block of a model: its weights, real inputs, and what float computes at each step.

Owns the choice of the block and the reference. Knows no circuit. Invariant: inputs are those that the oracle hands to
this very block, so that errors are measured where values really lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import RequestError, UnsupportedModelError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.config import ModelConfig
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model

Floats = NDArray[np.float32]
STEPS = ("gate", "up", "sigmoid", "silu", "product", "down")  # in the order of the block


@dataclass(frozen=True)
class FeedForwardBlock:
    """Weights ``[inputs, outputs]`` and rows of inputs ``[rows, hidden]``."""

    gate: Floats
    up: Floats
    down: Floats
    inputs: Floats

    def steps(self) -> dict[str, NDArray[np.float64]]:
        """Return what each step of `STEPS` leaves, in float64."""
        x = self.inputs.astype(np.float64)
        gate, up = x @ self.gate, x @ self.up
        sigmoid = 1 / (1 + np.exp(-gate))
        silu = gate * sigmoid
        product = silu * up
        found = (gate, up, sigmoid, silu, product, product @ self.down)
        return dict(zip(STEPS, found, strict=True))


class _Recorder(Oracle):
    """An oracle that keeps the input of one layer's feed-forward part."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, StoredTensor] | Mapping[str, Floats], layer: int):
        super().__init__(config, weights)
        self._prefix = f"layers.{layer}."
        self.read: Floats | None = None

    def feed_forward(self, x: Floats, prefix: str, layer: int | None = None) -> Floats:
        """Keep the input, and compute as always."""
        if prefix == self._prefix:
            self.read = x
        return super().feed_forward(x, prefix, layer)


def read_block(path: Path, layer: int, token_ids: Sequence[int]) -> FeedForwardBlock:
    """Return a layer's block of the model at ``path``, with the inputs that ``token_ids`` bring there.

    Raises `UnsupportedModelError` for a block that is not gated by SiLU, `RequestError` for a layer that is not there.
    """
    with open_model(path) as files:
        return block_of(files.config, files.tensors, layer, token_ids)


def block_of(
    config: ModelConfig,
    weights: Mapping[str, StoredTensor] | Mapping[str, Floats],
    layer: int,
    token_ids: Sequence[int],
) -> FeedForwardBlock:
    """Return a layer's block from opened weights; see `read_block`."""
    if not 0 <= layer < config.n_layers:
        raise RequestError(f"the model has layers 0 to {config.n_layers - 1}, and no layer {layer}")
    if not config.gated or config.activation != "silu" or config.layer_experts(layer) or config.cutoffs:
        raise UnsupportedModelError(
            "only feed-forward parts that SiLU gates are made circuits of: choose another model"
        )
    recorder = _Recorder(config, weights, layer)
    recorder.logits(token_ids)
    assert recorder.read is not None, "every layer has been computed"
    parts = [_floats(weights[f"layers.{layer}.{name}"]) for name in ("gate", "up", "down")]
    gate, up, down = (np.ascontiguousarray(part.T) for part in parts)
    return FeedForwardBlock(gate, up, down, recorder.read)


def _floats(stored: StoredTensor | Floats) -> Floats:
    return stored.float32() if isinstance(stored, StoredTensor) else stored
