"""Fits the matrices of an adapter's file to a model: stored names to canonical ones, with every shape checked.

Owns the checks that both kinds of files share. Knows no file (`from_peft`, `from_gguf`). Invariant: a pair is decoded
only after its shapes are known to be those of the model, so that memory follows the model and not the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.adapters.adapter import MAX_RANK, LowRankPair, expert_pair
from miaotui.model.config import ModelConfig
from miaotui.model.reading.names import tensor_shapes
from miaotui.model.reading.sources import TensorSource, canonical_rows

TABLES = ("embed", "layer_embed")  # whose rows are looked up


class StoredPair(NamedTuple):
    """The two matrices of a stored matrix's change, as a file has them, and the scale of their product.

    With ``experts`` > 0 they are those of so many experts, one expert's rows after another's: ``[experts * rank,
    inputs]`` and ``[experts * outputs, rank]``.
    """

    down: StoredTensor  # [rank, inputs]
    up: StoredTensor  # [outputs, rank]
    scale: float
    experts: int = 0


class TargetMatrix(NamedTuple):
    """One canonical matrix, or one expert's part of it, that a stored matrix holds rows of."""

    name: str  # of its pair
    source: TensorSource
    rows: int
    inputs: int
    expert: int = 0  # which of ``experts``
    experts: int = 0  # 0: it is no part of a stack


def targets_of(config: ModelConfig, sources: Mapping[str, TensorSource]) -> dict[str, list[TargetMatrix]]:
    """Return the matrices that adapters can change, by the name of the stored matrix.

    Those of experts are found under each expert's name if a file has these, and all together under their source's.
    """
    found: dict[str, list[TargetMatrix]] = {}
    for name, shape in tensor_shapes(config).items():
        if len(shape) != 2 or name in TABLES or name not in sources:
            continue
        source, (rows, inputs) = sources[name], shape
        if not source.experts:
            found.setdefault(source.name, []).append(TargetMatrix(name, source, rows, inputs))
            continue
        count, each = source.experts, rows // source.experts
        for expert in range(count):
            own, start = expert_pair(name, expert), TensorSource(source.name, start=expert * each)
            found.setdefault(source.name, []).append(TargetMatrix(own, start, each, inputs, expert, count))
        for expert, stored in enumerate(source.stored_names if "{}" in source.name else ()):
            found[stored] = [TargetMatrix(expert_pair(name, expert), TensorSource(stored), each, inputs)]
    return found


def fitted(
    label: str, config: ModelConfig, sources: Mapping[str, TensorSource], stored: Mapping[str, StoredPair]
) -> dict[str, LowRankPair]:
    """Return pairs by canonical name. Raises `ModelFormatError` for an adapter of another model."""
    by_stored = targets_of(config, sources)
    shared = [layer for layer in range(config.n_layers) if not config.has_keys(layer)]
    unused = {sources[f"layers.{layer}.{name}"].name for layer in shared for name in ("k", "v")}
    pairs: dict[str, LowRankPair] = {}
    for stored_name, pair in stored.items():
        targets = by_stored.get(stored_name)
        if stored_name in unused:  # a layer that sees the keys of another one
            continue
        if targets is None:
            raise foreign(label, f"it changes {stored_name[:200]!r}, which the model does not have as a linear layer")
        _check(label, stored_name, pair, targets)
        for name, own in _cut(targets, pair):
            if name in pairs:
                raise ModelFormatError(f"{label} changes {name} twice, by {stored_name[:200]!r} too: get it again")
            pairs[name] = own
    return pairs


def _cut(targets: Sequence[TargetMatrix], pair: StoredPair) -> Iterator[tuple[str, LowRankPair]]:
    """Yield the pairs of all canonical matrices that one stored matrix holds: they share ``down``, but for experts."""
    down, rank = pair.down.float32(), pair.up.shape[1]
    for target in targets:
        rows = canonical_rows(pair.up, target.source, target.rows)
        own = down[target.expert * rank : (target.expert + 1) * rank] if target.experts else down
        yield target.name, LowRankPair(own, rows.float32() * np.float32(pair.scale))


def _check(label: str, name: str, pair: StoredPair, targets: Sequence[TargetMatrix]) -> None:
    rank, experts = pair.up.shape[-1], targets[0].experts
    if rank > MAX_RANK:
        raise UnsupportedModelError(f"{label} has rank {rank} at {name}, and at most {MAX_RANK} is supported")
    rows = max(target.source.end(target.rows) for target in targets)
    found = (pair.up.shape, pair.down.shape, pair.experts)
    if found != ((rows, rank), (max(experts, 1) * rank, targets[0].inputs), experts):
        stacks = f" of {experts} experts" if experts or pair.experts else ""
        raise foreign(
            label,
            f"its matrices at {name[:200]} have shapes {pair.up.shape, pair.down.shape}, and the model asks for "
            f"{((rows, rank), (max(experts, 1) * rank, targets[0].inputs))}{stacks}",
        )
    if not np.isfinite(pair.scale):
        raise ModelFormatError(f"{label}: the scale of {name} is {pair.scale}; get the adapter again")


def foreign(label: str, why: str) -> ModelFormatError:
    """Return the error for an adapter that does not fit."""
    return ModelFormatError(f"{label} is an adapter of another model: {why}. Use the model that it was trained for")
