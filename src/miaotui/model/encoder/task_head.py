"""Heads of encoders in float32 NumPy: from the states of one text to logits, scores and sparse or token vectors.

Knows a `HeadConfig` and plain arrays; no tokenizer. Invariant: a result is a function of its own text's states alone;
no library's threads change its bytes. Follows transformers' implementations, ColBERT (Khattab and Zaharia, 2020) and
SPLADE (Formal et al., 2021, with its maximum over tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import UnsupportedModelError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.encoder.activations import ACTIVATIONS
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.heads import HeadConfig, head_shapes
from miaotui.model.encoder.oracle import decoded, layer_norm
from miaotui.model.encoder.pooling import head_linear, normalized, pooled
from miaotui.model.formulas import softmax

Array = NDArray[np.float32]


class TaskHead:
    """Head of one model, with its weights in float32 (of a tied output matrix, the whole embedding).

    ``tied_product`` multiplies rows by the embedding in place of NumPy: a compiled backend's, which has it packed.
    Raises `UnsupportedModelError` for a model without one.
    """

    def __init__(
        self,
        config: EncoderConfig,
        head: HeadConfig,
        weights: Mapping[str, StoredTensor] | Mapping[str, Array],
        tied_product: Callable[[Array], Array] | None = None,
    ) -> None:
        if head.kind == "none":
            raise UnsupportedModelError("the model has no head for this task: choose another model")
        self.head = head
        self._norm_eps = config.norm_eps
        self._weights = {name: decoded(weights[name]) for name in head_shapes(config, head)}
        self._tied_product = tied_product if head.tied else None
        if head.tied and tied_product is None:
            self._weights["head.output"] = decoded(weights["embed"])

    def logits(self, states: Array) -> Array:
        """Return raw outputs for a text's states ``[n, hidden]``.

        "sequence", "cross-encoder": ``[outputs]``; "token", "mlm": ``[n, outputs]`` (pass only the rows that are
        wanted); "colbert": ``[n, outputs]``, each row of length 1; "splade": ``[outputs]``, not negative.
        """
        kind = self.head.kind
        if kind in ("sequence", "cross-encoder"):
            row: Array = self._outputs(pooled(states, self.head.pooling)[None])[0]
            return row
        outputs = self._outputs(states)
        if kind == "colbert":
            return normalized(outputs)
        if kind == "splade":
            strongest: Array = np.log1p(np.maximum(outputs.max(axis=0), np.float32(0)))
            return strongest
        return outputs

    def probabilities(self, logits: Array) -> Array:
        """Return probabilities of logits: softmax over one label, sigmoid over several; regression stays as it is."""
        if self.head.kind == "cross-encoder":
            return sigmoid(logits)
        if self.head.problem == "single_label" or self.head.kind == "mlm":
            return softmax(logits)
        return sigmoid(logits) if self.head.problem == "multi_label" else logits

    def _outputs(self, x: Array) -> Array:
        """Return ``norm(activation(dense(x)))`` as far as the head has these, then its matrix."""
        weights = self._weights
        if self.head.transform is not None:
            x = head_linear(x, weights["head.transform"], weights.get("head.transform_bias"))
            x = ACTIVATIONS[self.head.transform](x)
        if self.head.norm:
            x = layer_norm(x, weights["head.norm"], weights.get("head.norm_bias"), self._norm_eps)
        bias = weights.get("head.output_bias")
        if self._tied_product is None:
            return head_linear(x, weights["head.output"], bias)
        outputs = self._tied_product(x)
        return outputs if bias is None else outputs + bias


def sigmoid(x: Array) -> Array:
    """Return ``1 / (1 + exp(-x))``, written with tanh, which cannot overflow."""
    y: Array = np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))
    return y
