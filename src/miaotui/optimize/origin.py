"""Origin of a model that was made here: from which files, by which recipe, with digests.

Owns the record ``NAME.origin.json`` beside a file and ``origin.json`` in a folder. Knows no method. Invariant: the
digest of a folder covers its weights, its configuration and its tokenizer, whatever else lies there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from miaotui.errors import ModelFormatError, ModelNotFoundError
from miaotui.hub.files import write_whole
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.hub.sources.repository import COMPANIONS
from miaotui.optimize.source import file_digest

FORM = 1
NAME = "origin.json"


@dataclass(frozen=True)
class Origin:
    """Origin of a model; all values are JSON's. ``made_by`` is the command, ``sources`` the models with their digests,
    ``measured`` what was found out about the result.
    """

    made_by: str
    file: Mapping[str, Any]
    sources: tuple[Mapping[str, Any], ...]
    recipe: Mapping[str, Any]
    measured: Mapping[str, Any]
    form: int = FORM


def origin_path(model: Path) -> Path:
    """Return where the origin of a model lies."""
    return model / NAME if model.is_dir() else model.with_name(f"{model.name}.{NAME}")


def described(name: str, path: Path) -> dict[str, Any]:
    """Return a model's name, bytes and digest, as records name it."""
    return {"name": name, "bytes": _size(path), "sha256": model_digest(path)}


def model_digest(path: Path) -> str:
    """Return the SHA-256 of a model's file, or of the names and digests of a folder's files."""
    if path.is_file():
        return file_digest(path)
    parts = [f"{file.name} {file_digest(file)}\n" for file in _files(path)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def write_origin(model: Path, origin: Origin) -> None:
    """Write the record of the model at ``model``. Raises `CacheError`."""
    text = json.dumps(asdict(origin), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(origin_path(model), "the record of its origin", lambda file: file.write(text.encode() + b"\n"))


def read_origin(model: Path) -> Origin:
    """Read the record of a model and check that it is about these files.

    Raises `ModelNotFoundError` where there is none, `ModelFormatError` for one that is damaged or about other files.
    """
    path = origin_path(model)
    if not path.is_file():
        raise ModelNotFoundError(f"{model} has no {path.name}: merge, finetune and train write one")
    values = read_object(path)
    try:
        if values["form"] != FORM:
            raise ModelFormatError(f"{path} has form {values['form']}, and {FORM} is known: use a newer miaotui")
        values["sources"] = tuple(values["sources"])
        origin = Origin(**values)
        digest = origin.file["sha256"]
    except (KeyError, TypeError) as error:
        raise ModelFormatError(f"{path} is no record of a model's origin ({error}): make the model again") from error
    if model_digest(model) != digest:
        raise ModelFormatError(f"{path} is about other files than those of {model.name}: make the model again")
    return origin


def _files(folder: Path) -> list[Path]:
    names = {*COMPANIONS, "adapter_config.json"}
    found = [path for path in folder.iterdir() if path.name in names or path.suffix == ".safetensors"]
    return sorted(path for path in found if path.is_file())


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in _files(path))
