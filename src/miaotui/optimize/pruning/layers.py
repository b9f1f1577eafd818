"""Layers in the order in which they are best left out: at each step the one whose absence costs least.

Owns the search. The cost of a layer is the divergence of the model's distributions without it from the original's, over
calibration texts, given what was left out before (ShortGPT's angle between a layer's input and output, Men et al. 2024,
only says which layers are tried). Invariant: the same model and texts give the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from miaotui.optimize.layerwise import Array, LayerwiseModel, Tokens, divergences, log_probabilities
from miaotui.types import Progress

TRIED = 12  # layers that are tried at each step, those that turn the stream least


@dataclass(frozen=True)
class LayerOrder:
    """Layers by the order in which they are left out, and the divergence (nats) after each step."""

    layers: tuple[int, ...]
    nats: tuple[float, ...]

    def kept(self, count: int, of: int) -> tuple[int, ...]:
        """Return the layers that stay when ``count`` of ``of`` do."""
        gone = set(self.layers[: of - count])
        return tuple(layer for layer in range(of) if layer not in gone)


def layer_order(
    model: LayerwiseModel, texts: Tokens, count: int, progress: Progress | None = None, tried: int = TRIED
) -> LayerOrder:
    """Return the ``count`` layers that are best left out, first the cheapest.

    Streams before every layer are kept: ``4 * hidden * tokens * layers`` bytes.
    """
    search = _Search(model, texts)
    gone: list[int] = []
    nats: list[float] = []
    for step in range(count):
        layer, found = search.best(gone, tried)
        gone.append(layer)
        nats.append(found)
        if progress is not None:
            progress("leaving out layers", step + 1, count)
    return LayerOrder(tuple(gone), tuple(nats))


class _Search:
    """The original's distributions, and the streams of the model so far."""

    def __init__(self, model: LayerwiseModel, texts: Tokens) -> None:
        self._model, self._texts = model, texts
        self._head = model.head()
        self._base = log_probabilities(self._logits(model.states(texts)))

    def best(self, gone: Sequence[int], tried: int) -> tuple[int, float]:
        """Return the layer whose absence costs least, beside those that are gone, and the divergence then."""
        stays = [layer for layer in range(self._model.config.n_layers) if layer not in gone]
        streams, angles = self._streams(stays)
        chosen = sorted(sorted(stays, key=lambda layer: angles[layer])[:tried])
        states: dict[int, list[Array]] = {}
        for layer in stays:  # all variants pass a layer together, so that its weights are decoded once
            together = [x for each in states.values() for x in each]
            if together:
                passed, size = self._model.layer(together, layer), len(self._texts)
                states = {name: passed[i * size : (i + 1) * size] for i, name in enumerate(states)}
            if layer in chosen:
                states[layer] = streams[layer]
        costs = {layer: self._cost(each) for layer, each in states.items()}
        layer = min(costs, key=lambda each: (costs[each], each))
        return layer, costs[layer]

    def _streams(self, stays: Sequence[int]) -> tuple[dict[int, list[Array]], dict[int, float]]:
        """Return the streams before each layer, and by how much the layer turns them (1 - cosine)."""
        x = self._model.embedded(self._texts)
        before, angles = {}, {}
        for layer in stays:
            before[layer] = x
            x = self._model.layer(x, layer)
            angles[layer] = float(np.mean([_turn(a, b) for a, b in zip(before[layer], x, strict=True)]))
        return before, angles

    def _cost(self, states: Sequence[Array]) -> float:
        return float(divergences(self._base, log_probabilities(self._logits(states))).mean())

    def _logits(self, states: Sequence[Array]) -> Array:
        return self._head.head(np.concatenate(states))


def _turn(a: Array, b: Array) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(1 - ((a * b).sum(1) / np.maximum(norms, 1e-20)).mean())
