"""Fits the matrices of an adapter's file to a model: stored names to canonical ones, with every shape checked.

Owns the checks that both kinds of files share. Knows no file (`from_peft`, `from_gguf`). Invariant: a pair is decoded
only after its shapes are known to be those of the model, so that memory follows the model and not the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.adapters.adapter import MAX_RANK, LowRankPair
from miaotui.model.config import ModelConfig
from miaotui.model.reading.names import tensor_shapes
from miaotui.model.reading.sources import TensorSource, canonical_rows

TABLES = ("embed", "layer_embed")  # whose rows are looked up
EXPERTS = ".experts"  # in the names of matrices of experts


class StoredPair(NamedTuple):
    """The two matrices of a stored matrix's change, as a file has them, and the scale of their product."""

    down: StoredTensor  # [rank, inputs]
    up: StoredTensor  # [outputs, rank]
    scale: float


def fitted(
    label: str, config: ModelConfig, sources: Mapping[str, TensorSource], stored: Mapping[str, StoredPair]
) -> dict[str, LowRankPair]:
    """Return pairs by canonical name. Raises `ModelFormatError` for an adapter of another model."""
    shapes = tensor_shapes(config)
    by_stored: dict[str, list[str]] = {}
    for name, source in sources.items():
        if name in shapes and len(shapes[name]) == 2 and name not in TABLES:
            by_stored.setdefault(source.name, []).append(name)
    shared = [layer for layer in range(config.n_layers) if not config.has_keys(layer)]
    unused = {sources[f"layers.{layer}.{name}"].name for layer in shared for name in ("k", "v")}
    pairs: dict[str, LowRankPair] = {}
    for stored_name, pair in stored.items():
        names = by_stored.get(stored_name)
        if stored_name in unused:  # a layer that sees the keys of another one
            continue
        if names is None and EXPERTS in stored_name:
            raise UnsupportedModelError(
                f"{label} changes {stored_name[:200]!r}, a matrix of single experts, which is supported neither per "
                "request nor merged: train one for attention and router, or merge it with PEFT"
            )
        if names is None:
            raise _foreign(label, f"it changes {stored_name[:200]!r}, which the model does not have as a linear layer")
        rows = max(sources[name].end(shapes[name][0]) for name in names)
        _check(label, stored_name, pair, (rows, shapes[names[0]][1]))
        pairs.update(_cut(names, pair, shapes, sources))
    return pairs


def _cut(
    names: list[str], pair: StoredPair, shapes: Mapping[str, tuple[int, ...]], sources: Mapping[str, TensorSource]
) -> Iterator[tuple[str, LowRankPair]]:
    """Yield the pairs of all canonical matrices that one stored matrix holds: they share ``down``."""
    down = pair.down.float32()
    for name in names:
        rows = canonical_rows(pair.up, sources[name], shapes[name][0])
        yield name, LowRankPair(down, rows.float32() * np.float32(pair.scale))


def _check(label: str, name: str, pair: StoredPair, shape: tuple[int, int]) -> None:
    rank = pair.down.shape[0]
    if rank > MAX_RANK:
        raise UnsupportedModelError(f"{label} has rank {rank} at {name}, and at most {MAX_RANK} is supported")
    found = (pair.up.shape, pair.down.shape)
    expected = ((shape[0], rank), (rank, shape[1]))
    if found != expected:
        raise _foreign(label, f"its matrices at {name} have shapes {found}, and the model asks for {expected}")
    if not np.isfinite(pair.scale):
        raise ModelFormatError(f"{label}: the scale of {name} is {pair.scale}; get the adapter again")


def _foreign(label: str, why: str) -> ModelFormatError:
    return ModelFormatError(f"{label} is an adapter of another model: {why}. Use the model that it was trained for")
