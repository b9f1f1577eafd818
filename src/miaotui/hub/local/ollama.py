"""Models that Ollama has stored: ``manifests/HOST/NAMESPACE/MODEL/TAG``, whose layers are files in ``blobs``.

Owns the reading of manifests. A manifest comes from elsewhere, so that a digest which is none, or a file of another
size than it says, makes a model with a problem and never a path. Invariant: nothing of Ollama's is changed, and
every path lies in its ``blobs``. Source: Ollama's documentation of its manifests (``server/internal/manifest``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from miaotui.errors import ModelError
from miaotui.hub.files import file_size
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.hub.local.stored import StoredModel, files_below

PROGRAM, PREFIX = "Ollama", "ollama"
LAYER = "application/vnd.ollama.image."
DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG = "registry.ollama.ai", "library", "latest"

_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_TENSORS = "Ollama keeps it tensor by tensor for another engine of its own: pull a tag of it in GGUF with Ollama"
_ADAPTED = "it has an adapter, which is not applied here: load its base model and the adapter by name"


def ollama_models(folder: Path) -> Iterator[StoredModel]:
    """Yield the models in Ollama's folder, by their names there."""
    for manifest in files_below(folder / "manifests"):
        parts = manifest.split("/")
        if len(parts) == 4 and not parts[3].startswith("."):
            model = _model(folder, f"{PREFIX}:{_shown(parts)}", folder / "manifests" / manifest)
            if model is not None:
                yield model


def _model(folder: Path, name: str, manifest: Path) -> StoredModel | None:
    """Return the model of a manifest; None for one without weights, which runs on Ollama's servers."""
    try:
        layers = _layers(read_object(manifest))
    except ModelError as error:
        return StoredModel(name, PROGRAM, manifest, 0, str(error))
    weights = layers.get("model")
    if weights is None:
        return StoredModel(name, PROGRAM, manifest, 0, _TENSORS) if "tensor" in layers else None
    digest = _DIGEST.fullmatch(str(weights.get("digest")))
    if digest is None:
        return StoredModel(name, PROGRAM, manifest, 0, "its manifest names no SHA-256: pull it again with Ollama")
    path = folder / "blobs" / f"sha256-{digest[1]}"
    size, stated = file_size(path), weights.get("size")
    problem = _ADAPTED if "adapter" in layers else ""
    if size != stated:
        problem = f"its file has {size:,} bytes, not the {stated} of its manifest: pull it again with Ollama"
    return StoredModel(name, PROGRAM, path, size, problem)


def _layers(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the first layer of each kind (``model``, ``adapter``, ``template`` ...)."""
    found: dict[str, dict[str, Any]] = {}
    listed = manifest.get("layers")
    for layer in listed if isinstance(listed, list) else []:
        kind = layer.get("mediaType") if isinstance(layer, dict) else None
        if isinstance(kind, str) and kind.startswith(LAYER):
            found.setdefault(kind.removeprefix(LAYER), layer)
    return found


def _shown(parts: list[str]) -> str:
    """Return the name as Ollama shows it: without its own registry and namespace."""
    host, namespace, model, tag = parts
    if host == DEFAULT_HOST:
        host = ""
        namespace = "" if namespace == DEFAULT_NAMESPACE else namespace
    return "/".join(part for part in (host, namespace, model) if part) + f":{tag}"
