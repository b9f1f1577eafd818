"""Writing a model like another one: its container, its metadata and its companions, with other tensors.

Owns the order of the work and that a folder or file appears whole or not at all. A folder of safetensors becomes a
folder with one file; a GGUF file becomes a GGUF file whose metadata is copied. Knows neither canonical names nor
arithmetic. Invariant: room on the disk is checked before anything is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from miaotui.config import make_folder
from miaotui.errors import RequestError, UnsupportedModelError
from miaotui.hub.files import replace, require_room, write_whole
from miaotui.hub.formats.gguf import read_gguf
from miaotui.hub.formats.mapped import map_file
from miaotui.hub.formats.safetensors import SINGLE_NAME, read_safetensors
from miaotui.hub.formats.tensors import BlockType, StoredTensor, stored_bytes
from miaotui.hub.parts import part_names
from miaotui.hub.sources.repository import COMPANIONS
from miaotui.hub.writers.gguf import with_file_type, write_gguf
from miaotui.hub.writers.safetensors import write_safetensors
from miaotui.model.writing.layout import TensorBytes

Shape = tuple[int, ...]
FILE_TYPES = {BlockType.F32: 0, BlockType.F16: 1, BlockType.BF16: 32}  # general.file_type by the type of most weights
Sizes = Mapping[str, tuple[BlockType, Shape]]


def require_new(out: Path) -> None:
    """Raise `RequestError` if there is something at ``out``."""
    if out.exists():
        raise RequestError(f"{out} is there already: name another place for the model")


def require_whole(model: Path) -> None:
    """Raise `RequestError` for a GGUF model in several parts."""
    if model.is_file() and len(part_names(model.name)) > 1:
        raise RequestError(f"{model} is in parts: merge them first (llama-gguf-split --merge)")


def write_like(
    model: Path, out: Path, sizes: Sizes, data: TensorBytes, companions: Mapping[str, bytes] | None = None
) -> Path:
    """Write a model like the one at ``model`` to ``out``, whose tensors have the types and shapes in ``sizes``.

    ``data`` gives the bytes of a tensor of ``model``, as the type that is written, in pieces. ``companions`` replace
    files of the folder beside the weights, or add some. Raises `CacheError` if it cannot be written.
    """
    needed = sum(stored_bytes(name, shape, kind) for name, (kind, shape) in sizes.items())
    if model.is_file():
        with read_gguf(model) as file:
            tensors = dict(file.tensors)
            _require_names(model, sizes, tensors)
            require_room(make_folder(out.parent), needed)
            pieces = (piece for name, (kind, _) in sizes.items() for piece in data(tensors[name], kind))
            mapped = map_file(model)
            head = mapped if _keeps_types(tensors, sizes) else with_file_type(mapped, model.name, _file_type(sizes))
            write_whole(out, "the model", lambda target: write_gguf(target, head, sizes, pieces))
        return out
    stored = read_safetensors(model)
    _require_names(model, sizes, stored)
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    make_folder(part)
    try:
        require_room(part, needed)
        copy_companions(model, part)
        for name, content in (companions or {}).items():
            (part / name).write_bytes(content)
        pieces = (piece for name, (kind, _) in sizes.items() for piece in data(stored[name], kind))
        write_whole(part / SINGLE_NAME, "the model", lambda file: write_safetensors(file, sizes, pieces))
        replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _require_names(model: Path, sizes: Sizes, stored: Mapping[str, StoredTensor]) -> None:
    apart = sizes.keys() - stored.keys()
    if apart:
        raise UnsupportedModelError(
            f"{model} stores {min(apart)!r} as a part of another tensor, and is not written in that form: convert it "
            "to plain matrices first (llama.cpp's convert_hf_to_gguf.py)"
        )


def copy_companions(model: Path, folder: Path) -> None:
    """Copy configuration and tokenizer of the model in a folder."""
    for name in sorted(COMPANIONS):
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / name)


def _keeps_types(tensors: Mapping[str, StoredTensor], sizes: Sizes) -> bool:
    return all(tensors[name].kind is kind for name, (kind, _) in sizes.items())


def _file_type(sizes: Sizes) -> int:
    """Return the ``general.file_type`` of a file most of whose weights are floats; 1, float16, of any other."""
    weights: dict[BlockType, int] = {}
    for name, (kind, shape) in sizes.items():
        weights[kind] = weights.get(kind, 0) + stored_bytes(name, shape, kind)
    return FILE_TYPES.get(max(weights, key=weights.__getitem__), FILE_TYPES[BlockType.F16])
