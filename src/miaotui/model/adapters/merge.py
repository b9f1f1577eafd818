"""Merging an adapter into a model's file: each changed matrix becomes ``W + up @ down``.

Owns the change of stored matrices and the files that are written; everything else is copied byte by byte. A folder
keeps the types of its weights. In a GGUF file the changed matrices become 16-bit floats, as quantised ones cannot take
a change exactly. Knows no engine. Invariant: the merged model appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import UnsupportedModelError
from miaotui.hub.formats.gguf import read_gguf
from miaotui.hub.formats.safetensors import read_safetensors
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.hub.writers.blocks import encode_floats
from miaotui.model.adapters.adapter import LowRankPair
from miaotui.model.adapters.fitting import TargetMatrix, targets_of
from miaotui.model.adapters.reading import read_adapter
from miaotui.model.config import ModelConfig
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
    if model.is_file():
        with read_gguf(model) as file:
            shapes = {name: (tensor.kind, tensor.shape) for name, tensor in file.tensors.items()}
    else:
        shapes = {name: (tensor.kind, tensor.shape) for name, tensor in read_safetensors(model).items()}
    changes: dict[str, list[_Change]] = {}
    for stored_name, source, pair in _placed(config, sources, pairs, shapes):
        changes.setdefault(stored_name, []).append(_Change(source, pair))
    changed = BlockType.F16 if model.is_file() else None
    sizes = {name: (changed if changed and name in changes else kind, shape) for name, (kind, shape) in shapes.items()}
    return write_like(model, out, sizes, lambda tensor, kind: [_bytes(tensor, changes.get(tensor.name), kind)])


def _placed(
    config: ModelConfig, sources: Mapping[str, TensorSource], pairs: Mapping[str, LowRankPair], stored: Container[str]
) -> Iterator[tuple[str, TensorSource, LowRankPair]]:
    """Yield each pair with the name of a stored tensor, and the rows of it that the pair changes.

    Raises `UnsupportedModelError` where the model stores them in a form that is not written.
    """
    places: dict[str, list[TargetMatrix]] = {}
    for target in chain.from_iterable(targets_of(config, sources).values()):
        places.setdefault(target.name, []).append(target)
    for name, pair in pairs.items():
        written = [target.source for target in places[name] if target.source.name in stored]
        if not written:
            raise UnsupportedModelError(
                f"the model stores {name} as a part of another tensor, and is not written in that form: convert it "
                "to plain matrices first (llama.cpp's convert_hf_to_gguf.py)"
            )
        yield written[0].name, written[0], pair


def _bytes(tensor: StoredTensor, changes: list[_Change] | None, kind: BlockType) -> NDArray[np.uint8]:
    """Return the bytes of a tensor with its changes, encoded as ``kind``."""
    if not changes:
        return tensor.data.reshape(-1)
    weights = tensor.float32()  # of experts in one tensor, all their rows
    for source, pair in changes:
        weights[stored_rows(source, len(pair.up))] += pair.change()
    return encode_floats(weights, kind)
