"""Opening a model on disk, in any format, as a configuration and canonical tensors.

Knows that a GGUF file is one file and that safetensors lie in a folder with ``config.json``; leaves their contents to
`from_gguf` and `from_hf`. Invariant: the result of `open_model` has been checked against itself, tensor by tensor,
and nothing has been decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaotui.closing import Closing
from miaotui.errors import ModelNotFoundError, UnsupportedModelError
from miaotui.hub.ensemble import is_ensemble
from miaotui.hub.formats.gguf import read_gguf
from miaotui.model.config import ModelConfig
from miaotui.model.reading.from_gguf import config_from_gguf, tensors_from_gguf
from miaotui.model.reading.sources import CanonicalTensors


@dataclass(frozen=True)
class ModelFiles(Closing):
    """Opened model. Its tensors view mapped files: do not use them after `close`.

    ``metadata`` holds a GGUF file's pairs and is None for safetensors; ``folder`` is where the files lie.
    """

    config: ModelConfig
    tensors: CanonicalTensors
    metadata: Mapping[str, Any] | None = None
    folder: Path | None = None
    release: Callable[[], None] = lambda: None

    def close(self) -> None:
        """Unmap the files."""
        self.release()


def open_model(path: str | Path) -> ModelFiles:
    """Open a ``.gguf`` file, or a folder with ``config.json`` and safetensors.

    Raises `ModelNotFoundError`, `ModelFormatError` or `UnsupportedModelError`.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise ModelNotFoundError(f"there is no file or folder {str(path)!r}: check the path")
    if is_ensemble(path):
        raise UnsupportedModelError(f"{path} describes several models, and one is needed here: name one of its members")
    if path.suffix in (".onnx", ".bin"):
        _refuse_encoder(path)
    if path.suffix == ".safetensors":
        raise UnsupportedModelError(
            f"{path.name!r} alone does not say what model it is: name the folder that holds it "
            "together with config.json"
        )
    return _open_gguf(path)


def _open_gguf(path: Path) -> ModelFiles:
    file = read_gguf(path)
    try:
        config = config_from_gguf(file.metadata, file.tensors)
        tensors = tensors_from_gguf(config, file.metadata, file.tensors)
    except BaseException:
        file.close()
        raise
    return ModelFiles(config, tensors, metadata=file.metadata, folder=path.parent, release=file.close)


def _open_folder(folder: Path) -> ModelFiles:
    from miaotui.hub.formats.safetensors import read_safetensors  # noqa: PLC0415  (a GGUF file needs none of this)
    from miaotui.model.reading.from_hf import config_from_hf, tensors_from_hf  # noqa: PLC0415  (folders alone)

    values = _read_config(folder)
    config = config_from_hf(values)  # before the weights: an unknown model is refused at once
    tensors = tensors_from_hf(config, values, read_safetensors(folder))
    return ModelFiles(config, tensors, folder=folder)


def _read_config(folder: Path) -> dict[str, Any]:
    from miaotui.hub.formats.untrusted_json import read_object  # noqa: PLC0415  (see `_open_folder`)

    path = folder / "config.json"
    _refuse_encoder(folder)
    if not path.is_file():
        raise ModelNotFoundError(
            f"the folder {str(folder)!r} has no config.json: name a .gguf file, or a folder with "
            "config.json, tokenizer.json and *.safetensors"
        )
    return read_object(path)


def _refuse_encoder(path: Path) -> None:
    """Raise `UnsupportedModelError` for an export that only encoders, or encoder-decoders, have."""
    from miaotui.hub.formats.ctranslate2.model_bin import FILE_NAME, is_ctranslate2  # noqa: PLC0415  (see `_open_folder`)
    from miaotui.hub.formats.marian.binary import find_marian  # noqa: PLC0415  (see `_open_folder`)
    from miaotui.hub.formats.whisper.ggml import is_whisper_ggml  # noqa: PLC0415  (see `_open_folder`)
    from miaotui.model.encoder.containers.find import is_exported  # noqa: PLC0415  (see `_open_folder`)
    from miaotui.model.reading.families import NO_TEXT  # noqa: PLC0415  (only for the error)

    if is_exported(path):
        raise UnsupportedModelError(f"{path} holds an encoder, {NO_TEXT}")
    if is_whisper_ggml(path) or is_ctranslate2(path / FILE_NAME) or find_marian(path) is not None:
        raise UnsupportedModelError(
            f"{path} holds an encoder-decoder, which does not chat: use `miaotui transcribe` or miaotui.load_speech "
            "for speech, miaotui.load or `miaotui serve` for translation"
        )
