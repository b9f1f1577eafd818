"""Opening an encoder on disk, in any container, as a configuration, canonical tensors, head and pooling.

Knows which container is read by which module; leaves their contents to these. Invariant: the result of `open_encoder`
has been checked against itself, tensor by tensor, and nothing has been decoded.
"""

from __future__ import annotations

from pathlib import Path

from miaotui.errors import ModelNotFoundError, UnsupportedModelError
from miaotui.hub.formats.gguf import read_gguf
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.model.encoder.container import OpenedEncoder
from miaotui.model.encoder.containers.find import begins_with, open_container, safetensors_folder
from miaotui.model.encoder.containers.sentence_transformers import MODULES
from miaotui.model.encoder.reading.families import is_encoder_type
from miaotui.model.encoder.reading.from_decoder import is_decoder_encoder
from miaotui.model.encoder.reading.from_gguf import encoder_from_gguf, is_encoder_file
from miaotui.model.encoder.reading.mapping import mapped_encoder

__all__ = ["OpenedEncoder", "is_encoder", "open_encoder"]


GGUF_MAGIC = b"GGUF"


def open_encoder(path: str | Path) -> OpenedEncoder:
    """Open a ``.gguf`` file, a folder with ``config.json`` and safetensors, or a container that `find` knows.

    Raises `ModelNotFoundError`, `ModelFormatError` or `UnsupportedModelError`.
    """
    path = Path(path)
    container = open_container(path)
    if container is not None:
        return mapped_encoder(container)
    if path.is_dir():
        return mapped_encoder(safetensors_folder(path))
    if not path.is_file():
        raise ModelNotFoundError(f"there is no file or folder {str(path)!r}: check the path")
    if path.suffix == ".safetensors":
        raise UnsupportedModelError(
            f"{path.name!r} alone does not say what model it is: name the folder that holds it together with "
            "config.json"
        )
    return _gguf(path)


def is_encoder(path: str | Path) -> bool:
    """Return whether the model at ``path`` is an encoder, by the names in its files; its weights are not looked at.

    A folder of sentence-transformers is one, whatever its Transformer is. Raises `ModelFormatError`.
    """
    path = Path(path)
    if is_decoder_encoder(path):
        return True
    if path.is_dir():
        config = path / "config.json"
        values = read_object(config) if config.is_file() else {}
        has_weights = any(file.suffix == ".safetensors" for file in path.iterdir())
        return (path / MODULES).is_file() or is_encoder_type(values.get("model_type")) or not has_weights
    if not begins_with(path, GGUF_MAGIC):
        return True
    file = read_gguf(path)
    try:
        return is_encoder_file(file.metadata)
    finally:
        file.close()


def _gguf(path: Path) -> OpenedEncoder:
    file = read_gguf(path)
    try:
        return encoder_from_gguf(file.metadata, file.tensors, file.close)
    except BaseException:
        file.close()
        raise
