"""Pages of keys and values as NumPy arrays, and where each row of a plan writes to and reads from.

Knows pages and positions, not arithmetic. Invariant: a row finds at each position before it the keys and values of its
own path, also in a tree of drafts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import UnsupportedModelError
from miaotui.model.config import ModelConfig
from miaotui.schedule.plan import PAGE_SIZE, Chunk, RowKind

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PlannedRow:
    """One row of a plan."""

    token: int
    position: int
    pages: tuple[int, ...]  # that it sees
    view_end: int  # one past the last position that it sees
    is_encoded: bool  # whether it sees those after it
    adapter: int  # number of the one it goes through
    places: list[tuple[int, int]] = field(default_factory=list)  # (page, slot) in which its keys and values go


class KeyValueCache:
    """Keys and values of some layers in float16: ``n_pages`` pages of `PAGE_SIZE` tokens."""

    def __init__(self, config: ModelConfig, layers: range, n_pages: int) -> None:
        require_own_keys(config, layers)
        self._layers: dict[int, NDArray[np.float16]] = {}
        for layer in filter(config.has_keys, layers):
            heads = config.at(layer)
            shape = n_pages, PAGE_SIZE, 2, heads.n_kv_heads, heads.head_dim
            self._layers[layer] = np.zeros(shape, np.float16)
        self._value_dims = {layer: config.at(layer).value_dim for layer in layers}

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page in all layers."""
        for pages in self._layers.values():
            pages[target] = pages[source]

    def store(self, layer: int, row: PlannedRow, keys: Floats, values: Floats) -> None:
        """Keep a row's keys and values, ``[1, heads, dim]`` each."""
        for page, slot in row.places:
            both = self._layers[layer][page, slot]
            both[0], both[1, :, : values.shape[2]] = keys[0], values[0]

    def seen(self, layer: int, row: PlannedRow) -> tuple[Floats, Floats]:
        """Return the keys and values at positions ``[0, view_end)`` of a row's pages, ``[positions, heads, dim]``
        each.
        """
        both = self.read(layer, row.pages, row.view_end).astype(np.float32)
        return both[:, 0], both[:, 1, :, : self._value_dims[layer]]

    def read(self, layer: int, pages: Sequence[int], count: int) -> NDArray[np.float16]:
        """Return the first ``count`` tokens' keys and values in ``pages``: ``[count, 2, heads, dim]``."""
        some = self._layers[layer][list(pages[: -(-count // PAGE_SIZE)])]
        return some.reshape(-1, *some.shape[2:])[:count]


def require_own_keys(config: ModelConfig, layers: range) -> None:
    """Raise `UnsupportedModelError` for layers that see keys of a layer which is not among them."""
    for layer in layers:
        if config.kv_layer(layer) not in layers:
            raise UnsupportedModelError(
                f"layer {layer} sees the keys of layer {config.kv_layer(layer)}, which another stage computes: load "
                "the whole model in one stage"
            )


def planned_rows(chunk: Chunk) -> list[PlannedRow]:
    """Return a chunk's rows in their order: the trunk, then each branch with its own positions and pages."""
    rows: list[PlannedRow] = []
    is_encoded, views = chunk.kind is RowKind.ENCODE, chunk.views
    for start, tokens, pages in _lines(chunk):
        for position, token in enumerate(tokens, start):
            end = views[position - start] if is_encoded else position + 1
            place = pages[position // PAGE_SIZE], position % PAGE_SIZE
            rows.append(PlannedRow(token, position, pages, end, is_encoded, chunk.adapter, [place]))
    for branch in chunk.branches:  # rows that the branch's first page holds a second time
        for back, row in enumerate(reversed(branch.again), 1):
            rows[row].places.append((branch.pages[branch.own], (branch.start - back) % PAGE_SIZE))
    return rows


def _lines(chunk: Chunk) -> Iterator[tuple[int, Sequence[int], tuple[int, ...]]]:
    yield chunk.start, chunk.tokens[: chunk.trunk], chunk.pages
    for branch in chunk.branches:
        yield branch.start, chunk.tokens[branch.row : branch.row + branch.count], branch.pages
