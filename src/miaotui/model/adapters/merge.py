"""Merging an adapter into a model's file: each changed matrix becomes ``W + up @ down``.

Owns the change of stored matrices and the files that are written; everything else is copied byte by byte. A folder
keeps the types of its weights. In a GGUF file the changed matrices become 16-bit floats, as quantised ones cannot take
a change exactly. Knows no engine. Invariant: the merged model appears whole or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.config import make_folder
from miaotui.errors import RequestError
from miaotui.hub.files import replace, require_room, write_whole
from miaotui.hub.formats.gguf import read_gguf
from miaotui.hub.formats.mapped import map_file
from miaotui.hub.formats.safetensors import SINGLE_NAME, read_safetensors
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.hub.parts import part_names
from miaotui.hub.sources.repository import COMPANIONS
from miaotui.hub.writers.blocks import encode_floats
from miaotui.hub.writers.gguf import write_gguf
from miaotui.hub.writers.safetensors import write_safetensors
from miaotui.model.adapters.adapter import LowRankPair
from miaotui.model.adapters.reading import read_adapter
from miaotui.model.reading.families import architecture_of
from miaotui.model.reading.files import open_model
from miaotui.model.reading.from_gguf import gguf_sources
from miaotui.model.reading.from_hf import hf_sources
from miaotui.model.reading.sources import TensorSource, stored_rows


class _Change(NamedTuple):
    """Change of some rows of one stored matrix."""

    source: TensorSource
    pair: LowRankPair


def merge_adapter(model: Path, adapter: Path, out: Path) -> Path:
    """Write the model at ``model`` with an adapter merged in to ``out``: a folder for a folder, a file for a GGUF file.

    Raises a `ModelError` for what cannot be read, `RequestError` if ``out`` exists, `CacheError` if it cannot be made.
    """
    if out.exists():
        raise RequestError(f"{out} is there already: name another place for the merged model")
    if model.is_file() and len(part_names(model.name)) > 1:
        raise RequestError(f"{model} is in parts: merge them first (llama-gguf-split --merge)")
    with open_model(model) as opened:
        pairs, config = read_adapter(adapter, opened.config), opened.config
    find = gguf_sources if model.is_file() else hf_sources
    sources = find(config, architecture_of(config.architecture))
    changes: dict[str, list[_Change]] = {}
    for name, pair in pairs.items():
        changes.setdefault(sources[name].name, []).append(_Change(sources[name], pair))
    return _merged_file(model, changes, out) if model.is_file() else _merged_folder(model, changes, out)


def _merged_folder(model: Path, changes: Mapping[str, list[_Change]], out: Path) -> Path:
    stored = read_safetensors(model)
    part = make_folder(out.with_name(f"{out.name}.part"))
    try:
        require_room(part, sum(tensor.size_bytes for tensor in stored.values()))
        for name in sorted(COMPANIONS):
            if (model / name).is_file():
                shutil.copyfile(model / name, part / name)
        sizes = {name: (tensor.kind, tensor.shape) for name, tensor in stored.items()}
        data = (_bytes(tensor, changes.get(name)) for name, tensor in stored.items())
        write_whole(part / SINGLE_NAME, "the merged model", lambda file: write_safetensors(file, sizes, data))
        replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _merged_file(model: Path, changes: Mapping[str, list[_Change]], out: Path) -> Path:
    with read_gguf(model) as file:
        tensors = dict(file.tensors)
        kinds = {name: BlockType.F16 if name in changes else tensor.kind for name, tensor in tensors.items()}
        sizes = {name: (kinds[name], tensor.shape) for name, tensor in tensors.items()}
        require_room(make_folder(out.parent), sum(tensor.size_bytes for tensor in tensors.values()))
        data = (_bytes(tensor, changes.get(name), kinds[name]) for name, tensor in tensors.items())
        write_whole(out, "the merged model", lambda target: write_gguf(target, map_file(model), sizes, data))
    return out


def _bytes(tensor: StoredTensor, changes: list[_Change] | None, kind: BlockType | None = None) -> NDArray[np.uint8]:
    """Return the bytes of a tensor with its changes, encoded as ``kind`` (default: its own)."""
    if not changes:
        return tensor.data.reshape(-1)
    weights = tensor.float32()
    for source, pair in changes:
        weights[stored_rows(source, len(pair.up))] += pair.change()
    return encode_floats(weights, kind or tensor.kind)
