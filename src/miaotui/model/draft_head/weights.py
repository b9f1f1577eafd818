"""A draft head's weights: a small file, made for one model, packed when it is loaded.

The file is a safetensors file with ``tokens`` ``[V]`` (the ids that it can draft, ascending), ``gate`` and ``up``
``[width, 3 hidden]``, ``down`` ``[hidden, width]``, ``carry`` ``[hidden]`` and ``layer`` ``[1]`` (the middle state is
that before this layer). A head with attention has two more: ``query`` ``[heads, 3 hidden]`` makes queries for that
layer's keys, and ``mix`` ``[hidden, heads]`` takes the values that they find; ``heads`` is the width of all query
heads of the model. The outputs are the model's own rows of those tokens, so the file does not hold them. It may hold
``spread`` ``[hidden, hidden]``, the mean of ``s sT`` over the head's normed states ``s``, by which the outputs are
rounded. A head that drafts blocks has ``masks`` ``[5, hidden]``: inputs in the place of tokens that are not known yet,
so that all tokens after the first one are drafted in one pass. Owns checking. Invariant: a head is loaded only for the
model that it was trained for, known by a digest of the model's final norm.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError
from miaotui.hub.store import PackedFile, PackedStore, content_key
from miaotui.kernels.draft.draft_fields import MAX_HEAD_DRAFT
from miaotui.kernels.linear.formats import UNIT_ROWS, Format
from miaotui.kernels.linear.packed_blocks import quantize
from miaotui.model.draft_head.packing import alternating, packed, padded, rows_of
from miaotui.model.draft_head.rounding import round_for
from miaotui.model.packed import Matrix, PackedModel

FOLDER = Path(__file__).parent / "heads"
FOLDER_NAME = "heads"  # of the user's own heads, in the cache
LAYOUT = 5  # of packed heads in the cache
TRUNK, OUTPUTS = Format.Q4M, Format.Q4  # a step is as fast as it is small
MOST_LAYERS = 1 << 16
MASKS = MAX_HEAD_DRAFT - 1  # tokens of a block after the first one
INPUTS = 3  # states of a cell: the last one, the newest token's embedding, one from the middle
_NAMES = {"tokens", "gate", "up", "down", "carry", "layer"}
_ATTENTION = {"query", "mix"}  # of a head with attention
_SPREAD, _MASKS = "spread", "masks"  # optional


class HeadWeights(NamedTuple):
    """A head, ready to run; ``carry`` is the last state's share in the next, ``layer`` that of the middle state."""

    layer: int
    tokens: NDArray[np.int32]
    gate_up: Matrix
    down: Matrix
    outputs: Matrix
    carry: NDArray[np.float32]
    norm: NDArray[np.float32]  # the model's final one
    query: Matrix | None = None  # `query` and `mix`: of a head with attention
    mix: Matrix | None = None
    masks: Matrix | None = None  # of a head that drafts blocks
    file: PackedFile | None = None  # the file that the others are mapped from

    @property
    def width(self) -> int:
        """Values between the two products of a step."""
        return self.down.inputs


def digest_of(weights: PackedModel) -> str:
    """Return a digest that tells models apart; equal for all files of one model, whatever their format."""
    return hashlib.sha256(weights.vector("final_norm").tobytes()).hexdigest()[:16]


def path_for(weights: PackedModel, own: Path) -> Path | None:
    """Find the head for this model in the user's ``own`` folder, or among those that come with miaotui."""
    name = f"{digest_of(weights)}.safetensors"
    return next((folder / name for folder in (own, FOLDER) if (folder / name).is_file()), None)


def note_unused(path: Path, architecture: str) -> None:
    """Log that the head at ``path`` is left out, because layers of the model hand on more than one stream."""
    logging.getLogger("miaotui.model").warning(
        "the draft head %s is not used: models with several streams or inputs of layers (%s) have no draft heads; "
        "drafts come from texts",
        path,
        architecture,
    )


def load_head(path: Path, weights: PackedModel, tied: bool, store: PackedStore | None = None) -> HeadWeights:
    """Read a head and pack it for the model ``weights``; the packed form is kept in ``store`` and mapped the next time.

    Raises `ModelFormatError` for a file that is no head, or one of a model of another shape;
    `CacheError` as the store does.
    """
    norm = weights.vector("final_norm")
    if store is None:
        return HeadWeights(**_pack(path, weights, tied), norm=norm)
    key = content_key(path, {"draft head": LAYOUT, "model": digest_of(weights)})
    file = store.open(key)
    if file is None:
        packed = _pack(path, weights, tied)
        _keep(packed, store, key)
        return HeadWeights(**packed, norm=norm)
    matrices = {
        name: Matrix(Format(form), file.arrays[name], inputs) for name, (form, inputs) in file.meta["matrices"].items()
    }
    tokens, carry = file.arrays["tokens"], file.arrays["carry"]
    layer = int(file.meta["layer"])
    return HeadWeights(layer=layer, tokens=tokens, carry=carry, norm=norm, file=file, **matrices)


def _keep(packed: Mapping[str, Any], store: PackedStore, key: str) -> None:
    matrices = {name: each for name, each in packed.items() if isinstance(each, Matrix)}
    forms = {name: [m.format.value, m.inputs] for name, m in matrices.items()}
    meta = {"matrices": forms, "layer": packed["layer"]}
    with store.create(key, meta) as writer:
        for name, matrix in matrices.items():
            writer.add(name, matrix.data)
        for name in ("tokens", "carry"):
            writer.add(name, packed[name])


def _pack(path: Path, weights: PackedModel, tied: bool) -> dict[str, Any]:
    """Read the fields of `HeadWeights` that a file holds."""
    outer = weights.matrix("embed" if tied else "head")
    hidden, vocabulary = outer.inputs, outer.units * UNIT_ROWS
    tokens, arrays = read_head(path)
    gate, up, down, carry = (arrays[name] for name in ("gate", "up", "down", "carry"))
    width = gate.shape[0]
    shapes = ((width, INPUTS * hidden), (width, INPUTS * hidden), (hidden, width), (hidden,), (1,))
    found = tuple(a.shape for a in (gate, up, down, carry, arrays["layer"]))
    if found != shapes or width % 32 or width == 0:
        raise _misfit(path, hidden)
    ascending = tokens.size > 0 and bool((np.diff(tokens) > 0).all())
    if not ascending or tokens[0] < 0 or tokens[-1] >= vocabulary:
        raise ModelFormatError(f"{path}: the draft head's tokens are not ids of this model: remove it")
    layer = int(arrays["layer"][0])
    if not 0 <= layer < MOST_LAYERS or f"layers.{layer}.attn_norm" not in weights:
        raise ModelFormatError(
            f"{path}: the draft head reads the state before layer {layer}, which this model does not have: remove it"
        )
    attention = {name: arrays[name] for name in _ATTENTION & set(arrays)}
    if attention:
        heads = weights.matrix(f"layers.{layer}.o").inputs
        if (attention["query"].shape, attention["mix"].shape) != ((heads, INPUTS * hidden), (hidden, heads)):
            raise _misfit(path, hidden)
    masks = {name: arrays[name] for name in {_MASKS} & set(arrays)}
    if masks and masks[_MASKS].shape != (MASKS, hidden):
        raise _misfit(path, hidden)
    return {
        "layer": layer,
        "tokens": tokens,
        "carry": carry,
        "gate_up": alternating(TRUNK, gate, up),
        "down": packed(quantize(TRUNK, padded(down))),
        "outputs": _outputs(path, rows_of(outer, tokens), arrays.get(_SPREAD), weights.vector("final_norm")),
        **{name: packed(quantize(TRUNK, padded(attention[name]))) for name in sorted(attention)},
        **{name: packed(quantize(Format.Q8, padded(each))) for name, each in masks.items()},
    }


def _outputs(
    path: Path, rows: NDArray[np.float32], spread: NDArray[np.float32] | None, norm: NDArray[np.float32]
) -> Matrix:
    """Pack the output rows, rounded for the spread of the head's states if the file holds it."""
    if spread is None:
        return packed(quantize(OUTPUTS, padded(rows)))
    if spread.shape != (len(norm), len(norm)):
        raise _misfit(path, len(norm))
    whole = norm.astype(np.float64)
    try:
        return packed(round_for(padded(rows), spread * whole * whole[:, None]))
    except np.linalg.LinAlgError as error:
        raise ModelFormatError(f"{path}: no states spread like those of the draft head: remove it") from error


def _misfit(path: Path, hidden: int) -> ModelFormatError:
    return ModelFormatError(
        f"{path}: the draft head's shapes do not fit a model of width {hidden}: remove it, or train one for it"
    )


def write_head(path: Path, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Write a head's arrays, as float16 but for the tokens; whole, or not at all."""
    from safetensors.numpy import save  # noqa: PLC0415  (the extra `train` brings it)

    kinds = {name: np.float32 if name in ("tokens", "layer") else np.float16 for name in sorted(arrays)}
    data = save({name: np.ascontiguousarray(arrays[name], kind) for name, kind in kinds.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(data)
    partial.replace(path)


def read_head(path: Path) -> tuple[NDArray[np.int32], dict[str, NDArray[np.float32]]]:
    """Return the tokens of a head file and its other arrays by name. Raises `ModelFormatError` for another file."""
    from miaotui.hub.formats.safetensors import read_safetensors  # noqa: PLC0415  (a packed head needs none of this)

    stored = read_safetensors(path)
    if set(stored) - {_SPREAD, _MASKS} not in (_NAMES, _NAMES | _ATTENTION):
        raise ModelFormatError(
            f"{path} holds {', '.join(sorted(stored)[:8])} and no draft head, which has {', '.join(sorted(_NAMES))}"
        )
    arrays = {name: tensor.float32() for name, tensor in stored.items()}
    if any(not np.isfinite(array).all() for array in arrays.values()):
        raise ModelFormatError(f"{path}: the draft head has weights that are not numbers: remove it")
    return arrays.pop("tokens").astype(np.int32), arrays
