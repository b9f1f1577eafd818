"""Model to be optimised: its file, its configuration, and which stored matrices may change their type.

Owns the way between stored tensors and canonical ones. Knows no rounding. Invariant: a model whose stored tensors are
replaced is read by the same rules as the file itself, so that what is measured is what a reader of the file will see.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from miaotui.closing import Closing
from miaotui.errors import ModelNotFoundError, UnsupportedModelError
from miaotui.hub.formats.gguf import GgufFile, read_gguf
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.hub.parts import part_names
from miaotui.model.config import ModelConfig
from miaotui.model.reading.families import by_gguf_name
from miaotui.model.reading.from_gguf import config_from_gguf, gguf_sources, tensors_from_gguf
from miaotui.model.reading.sources import CanonicalTensors
from miaotui.optimize.quantization.block_grids import kinds_for

CHUNK_BYTES = 1 << 20


class StoredMatrix(NamedTuple):
    """Stored matrix that may change its type: ``name`` in the file, the product that reads it, and its layer.

    ``product`` is canonical; several products may share a stored matrix, and their inputs. ``layer`` is -1 for the
    embedding and the output matrix.
    """

    name: str
    product: str
    layer: int
    rows: int
    cols: int


@dataclass(frozen=True, eq=False)
class GgufSource(Closing):
    """Open GGUF model. ``matrices`` are in the order of the file."""

    path: Path
    file: GgufFile
    config: ModelConfig
    matrices: tuple[StoredMatrix, ...]

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def canonical(self, replaced: Mapping[str, StoredTensor] | None = None) -> CanonicalTensors:
        """Return the tensors under canonical names, some of them ``replaced``, by stored name."""
        return tensors_from_gguf(self.config, self.file.metadata, {**self.file.tensors, **(replaced or {})})

    def digest(self) -> str:
        """Return the SHA-256 of the file."""
        return file_digest(self.path)


def open_source(path: Path) -> GgufSource:
    """Open the GGUF decoder at ``path``. Raises a `ModelError` for what cannot be read, or not be written again."""
    if path.is_dir():
        raise UnsupportedModelError(
            f"{path} is a folder of safetensors: convert it to one GGUF file first (llama.cpp's convert_hf_to_gguf.py)"
        )
    if not path.is_file():
        raise ModelNotFoundError(f"there is no file {str(path)!r}: check the path")
    if len(part_names(path.name)) > 1:
        raise UnsupportedModelError(f"{path} is in parts: merge them first (llama-gguf-split --merge)")
    file = read_gguf(path)
    try:
        config = config_from_gguf(file.metadata, file.tensors)
        if not config.has_one_stream:
            raise UnsupportedModelError(
                f"the layers of {config.architecture} share keys or hand on more than one residual stream, which "
                "optimisation does not follow yet: choose another model"
            )
        found = GgufSource(path, file, config, tuple(_matrices(config, file)))
        found.canonical()
        if not found.matrices:
            raise UnsupportedModelError(f"{path} has no matrix whose rows are whole blocks of 32: choose another model")
    except BaseException:
        file.close()
        raise
    return found


def _matrices(config: ModelConfig, file: GgufFile) -> Iterable[StoredMatrix]:
    metadata: Mapping[str, Any] = file.metadata
    sources = gguf_sources(config, by_gguf_name(str(metadata["general.architecture"])), file.tensors)
    readers: dict[str, str] = {}
    for reader, source in sources.items():
        for name in source.stored_names:
            readers.setdefault(name, reader)
    canonical = tensors_from_gguf(config, metadata, file.tensors)
    for name, tensor in file.tensors.items():
        product = readers.get(name, "")
        if len(tensor.shape) < 2 or product not in canonical or "router" in product or not kinds_for(tensor.cols):
            continue
        if canonical[product].cols == tensor.cols:  # others are turned, and read by columns
            parts = product.split(".")
            layer = int(parts[1]) if parts[0] == "layers" else -1
            yield StoredMatrix(name, product, layer, tensor.rows, tensor.cols)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex. Raises `ModelNotFoundError`."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise ModelNotFoundError(f"cannot read {path}: {error}. Check the path") from error
    return digest.hexdigest()
