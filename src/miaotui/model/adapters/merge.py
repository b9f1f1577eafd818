"""Merging an adapter into a model's file: each changed matrix becomes ``W + up @ down``.

Owns the change of stored matrices and the files that are written; everything else is copied byte by byte. A folder
keeps the types of its weights. In a GGUF file the changed matrices become 16-bit floats, as quantised ones cannot take
a change exactly. Knows no engine. Invariant: the merged model appears whole or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.gguf import read_gguf
from miaotui.hub.formats.safetensors import read_safetensors
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.hub.writers.blocks import encode_floats
from miaotui.model.adapters.adapter import LowRankPair
from miaotui.model.adapters.reading import read_adapter
from miaotui.model.reading.families import architecture_of
from miaotui.model.reading.files import open_model
from miaotui.model.reading.from_gguf import gguf_sources
from miaotui.model.reading.from_hf import hf_sources
from miaotui.model.reading.sources import TensorSource, stored_rows
from miaotui.model.writing.files import require_new, require_whole, write_like


class _Change(NamedTuple):
    """Change of some rows of one stored matrix."""

    source: TensorSource
    pair: LowRankPair


def merge_adapter(model: Path, adapter: Path, out: Path) -> Path:
    """Write the model at ``model`` with an adapter merged in to ``out``: a folder for a folder, a file for a GGUF file.

    Raises a `ModelError` for what cannot be read, `RequestError` if ``out`` exists, `CacheError` if it cannot be made.
    """
    require_new(out)
    require_whole(model)
    with open_model(model) as opened:
        pairs, config = read_adapter(adapter, opened.config), opened.config
    find = gguf_sources if model.is_file() else hf_sources
    sources = find(config, architecture_of(config.architecture))
    changes: dict[str, list[_Change]] = {}
    for name, pair in pairs.items():
        changes.setdefault(sources[name].name, []).append(_Change(sources[name], pair))
    if model.is_file():
        with read_gguf(model) as file:
            shapes = {name: (tensor.kind, tensor.shape) for name, tensor in file.tensors.items()}
        sizes = {name: (BlockType.F16 if name in changes else kind, shape) for name, (kind, shape) in shapes.items()}
    else:
        sizes = {name: (tensor.kind, tensor.shape) for name, tensor in read_safetensors(model).items()}
    return write_like(model, out, sizes, lambda tensor, kind: [_bytes(tensor, changes.get(tensor.name), kind)])


def _bytes(tensor: StoredTensor, changes: list[_Change] | None, kind: BlockType) -> NDArray[np.uint8]:
    """Return the bytes of a tensor with its changes, encoded as ``kind``."""
    if not changes:
        return tensor.data.reshape(-1)
    weights = tensor.float32()
    for source, pair in changes:
        weights[stored_rows(source, len(pair.up))] += pair.change()
    return encode_floats(weights, kind)
