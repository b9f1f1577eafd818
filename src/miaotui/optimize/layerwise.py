"""Forward pass over many texts, layer by layer in float32: one layer's weights are in memory at a time.

Owns the order, and the comparison of two models' distributions. Computes by `model.oracle`. Knows no files. Invariant:
logits are made for a few positions at a time and dropped; memory does not grow with texts times vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.config import ModelConfig
from miaotui.model.oracle import OnProduct, Oracle

Array = NDArray[np.float32]
Tokens = Sequence[Sequence[int]]
LOGIT_ROWS = 128  # positions whose logits are in memory at a time
HEAD_ROWS = 1 << 15  # of the output matrix, decoded at a time where it is not kept


class LayerwiseModel:
    """A model whose tensors are decoded when they are needed. ``tensors`` have canonical names."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, StoredTensor]) -> None:
        self.config, self.tensors = config, tensors

    def embedded(self, texts: Tokens) -> list[Array]:
        """Return the stream before the first layer, ``[n, hidden]`` of each text."""
        scale = np.float32(self.config.embedding_scale)
        return [self.tensors["embed"].take_rows(np.asarray(tokens)).float32() * scale for tokens in texts]

    def layer(self, states: Sequence[Array], layer: int, on_product: OnProduct | None = None) -> list[Array]:
        """Return the stream after ``layer`` of each text."""
        prefix = f"layers.{layer}."
        weights = {name: self.tensors[name] for name in self.tensors if name.startswith(prefix)}
        oracle = Oracle(self.config, weights, on_product)
        return [oracle.layer(x, layer) for x in states]

    def states(self, texts: Tokens) -> list[Array]:
        """Return the stream after the last layer of each text."""
        states = self.embedded(texts)
        for layer in range(self.config.n_layers):
            states = self.layer(states, layer)
        return states

    def head(self) -> Oracle:
        """Return an oracle that has what follows the last layer."""
        return self._having("final_norm", "final_norm_bias", self.head_name, "head_bias")

    def normed(self, states: Sequence[Array]) -> list[Array]:
        """Return what the output matrix reads, from the stream after the last layer."""
        oracle = self._having("final_norm", "final_norm_bias")
        return [oracle.normed(x) for x in states]

    @property
    def head_name(self) -> str:
        """Return the canonical name of the output matrix."""
        return "embed" if self.config.tied_head else "head"

    def _having(self, *names: str) -> Oracle:
        return Oracle(self.config, {name: self.tensors[name] for name in names if name in self.tensors})


@dataclass(frozen=True, eq=False)
class Divergence:
    """Two models' distributions at each position: ``kl`` (nats, of the second from the first), whether the best token
    is the same, and the surprise of the next token (nats) under each; NaN after the last token of a text.
    """

    kl: NDArray[np.float64]
    same_top: NDArray[np.bool_]
    surprise: NDArray[np.float64]
    other_surprise: NDArray[np.float64]
    starts: NDArray[np.int64]  # of the texts


def divergence(base: LayerwiseModel, other: LayerwiseModel, texts: Tokens) -> Divergence:
    """Compare two models of one vocabulary over the same texts."""
    return head_divergence(base.head(), base.states(texts), other.head(), other.states(texts), texts)


def head_divergence(
    base: Oracle,
    base_states: Sequence[Array],
    other: Oracle,
    other_states: Sequence[Array],
    texts: Tokens,
    vocabulary: int | None = None,
) -> Divergence:
    """Compare the distributions that follow from last layers' streams of each text, over the first ``vocabulary``
    tokens (None: all).
    """
    parts = [
        _compared(base.head(ours[at])[:, :vocabulary], other.head(theirs[at])[:, :vocabulary], targets[at])
        for ours, theirs, targets in zip(base_states, other_states, map(_targets, texts), strict=True)
        for at in _pieces(len(ours))
    ]
    kl, same, surprise, other_surprise = (np.concatenate(each) for each in zip(*parts, strict=True))
    starts = np.cumsum([0, *map(len, texts)])[:-1].astype(np.int64)
    return Divergence(kl, same, surprise, other_surprise, starts)


def _pieces(n: int) -> Iterator[slice]:
    for start in range(0, n, LOGIT_ROWS):
        yield slice(start, min(start + LOGIT_ROWS, n))


def _targets(tokens: Sequence[int]) -> NDArray[np.int64]:
    """Return the token after each; -1 after the last."""
    return np.array([*tokens[1:], -1], np.int64)


def _compared(
    p: Array, q: Array, targets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    same = p.argmax(1) == q.argmax(1)
    log_p, log_q = log_probabilities(p), log_probabilities(q)
    rows = np.arange(len(targets))
    surprises = [np.where(targets < 0, np.nan, -log[rows, targets].astype(np.float64)) for log in (log_p, log_q)]
    return divergences(log_p, log_q), same, surprises[0], surprises[1]


def divergences(log_p: Array, log_q: Array) -> NDArray[np.float64]:
    """Return the divergence of each row's distribution ``log_q`` from ``log_p``, in nats."""
    found: NDArray[np.float64] = np.einsum("ij,ij->i", np.exp(log_p), log_p - log_q, dtype=np.float64)
    return np.maximum(found, 0)


def log_probabilities(logits: Array) -> Array:
    """Return log-probabilities in nats; sums are in float64."""
    moved: Array = logits - logits.max(1, keepdims=True)
    moved -= np.log(np.exp(moved).sum(1, keepdims=True, dtype=np.float64)).astype(np.float32)
    return moved
