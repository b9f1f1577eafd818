"""Places of a head's values in memory, so that kernels read whole vectors of 16 whatever the head's size.

Owns the order of values within queries, keys and values, and the zeros between them. Knows configurations and rows of
stored matrices, not kernels. Invariant: scores and mixed values are those of the heads without zeros, since queries and
keys have equal places and a zero adds nothing. A head of 32 n values whose rotated part is a multiple of 32 stays as
it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.config import ModelConfig

VECTOR = 16  # values that kernels read together
GROUP = 32  # values of a quantized group
Places = NDArray[np.intp]


@dataclass(frozen=True)
class HeadLayout:
    """Layout of the heads of one model."""

    config: ModelConfig

    @cached_property
    def dim(self) -> int:
        """Return the places of a head: its values and zeros, a multiple of 16."""
        return max(_whole(2 * _whole(each // 2) + self.config.head_dim - each) for each in self._all_rotated)

    @property
    def part_widths(self) -> tuple[int, int, int]:
        """Return the outputs of the products to queries, keys and values, each in whole units."""
        queries, keys = (-(-n * self.dim // GROUP) * GROUP for n in (self.config.n_heads, self.config.n_kv_heads))
        return queries, keys, keys

    @cached_property
    def is_plain(self) -> bool:
        """Return whether heads have no zeros, and fill whole groups of 32 for the product that reads them."""
        ordered = all((self._key_places(each) == np.arange(self.dim)).all() for each in self._all_rotated)
        whole = self.dim == self.config.head_dim == self.config.value_dim
        return ordered and whole and self.dim % GROUP == 0

    def keys(self, layer: int) -> Places:
        """Return which value of a query or key each place holds, ``[dim]``; -1 for zero.

        Both halves of the rotated part begin at a whole vector, and the rest follows them.
        """
        return self._key_places(self._rotated(layer))

    def _key_places(self, rotated: int) -> Places:
        half, room = rotated // 2, _whole(rotated // 2)
        places: Places = np.full(self.dim, -1)
        places[:half] = np.arange(half)
        places[room : room + half] = np.arange(half, rotated)
        places[2 * room : 2 * room + self.config.head_dim - rotated] = np.arange(rotated, self.config.head_dim)
        return places

    @property
    def values(self) -> Places:
        """Return which value of a value head each place holds, ``[dim]``; -1 for zero."""
        places = np.arange(self.dim)
        return np.where(places < self.config.value_dim, places, -1)

    def stored(self, tensor: StoredTensor, part: str, layer: int) -> StoredTensor:
        """Return the rows (or biases) of ``part`` q, k or v with zeros at their places."""
        places, each = self.keys(layer), self.config.head_dim
        if part == "v":
            places, each = self.values, self.config.value_dim
        elif part == "k" and self.config.latent is not None:  # the rotated part comes from elsewhere
            rotated = self._rotated(layer)
            places, each = np.where(places < rotated, -1, places - rotated), each - rotated
        as_they_are = self.dim == each and (places == np.arange(self.dim)).all()
        return tensor if as_they_are else self._spread(tensor, places, each)

    def normed(self, weights: NDArray[np.float32], layer: int) -> tuple[NDArray[np.float32], float]:
        """Return the weights of a norm over a head's ``dim`` places, and its epsilon.

        The mean of squares over ``dim`` places is the head's times head_dim / dim; both results make up for it.
        """
        share = self.config.head_dim / self.dim
        spread = np.append(weights, np.float32(0))[self.keys(layer)]
        return (spread * np.float32(share**0.5)).astype(np.float32), self.config.norm_eps * share

    @cached_property
    def _all_rotated(self) -> frozenset[int]:
        return frozenset(self._rotated(layer) for layer in range(self.config.n_layers))

    def _rotated(self, layer: int) -> int:
        rope = self.config.layer_rope(layer)
        return 0 if rope is None else rope.dim

    def _spread(self, tensor: StoredTensor, places: Places, each: int) -> StoredTensor:
        is_vector = len(tensor.shape) == 1
        length = tensor.shape[0]
        rows = tensor.data.reshape(length, -1) if is_vector else tensor.data
        heads = np.arange(0, length, each)[:, None]
        index = np.where(places < 0, length, heads + places).reshape(-1)
        spread = np.concatenate([rows, np.zeros_like(rows[:1])])[index]  # zero bytes are zeros in every encoding
        shape = (len(index),) if is_vector else (len(index), tensor.cols)
        return StoredTensor(tensor.name, shape, tensor.kind, spread.reshape(1, -1) if is_vector else spread)


def _whole(values: int) -> int:
    return -(-values // VECTOR) * VECTOR
