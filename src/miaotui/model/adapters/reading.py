"""Opening an adapter on disk for a model, whatever its form.

Knows that a folder is PEFT's and a file GGUF. Invariant: the result fits the model, tensor by tensor.
"""

from __future__ import annotations

from pathlib import Path

from miaotui.errors import ModelNotFoundError
from miaotui.model.adapters.adapter import LowRankAdapter
from miaotui.model.adapters.from_gguf import read_gguf_adapter
from miaotui.model.adapters.from_peft import CONFIG, read_peft
from miaotui.model.config import ModelConfig


def read_adapter(path: Path, config: ModelConfig) -> LowRankAdapter:
    """Read the adapter at ``path``: a folder of PEFT's, or a GGUF file.

    Raises `ModelNotFoundError`, `ModelFormatError` or `UnsupportedModelError`.
    """
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise ModelNotFoundError(f"{path} is no adapter: it has no {CONFIG}. Name PEFT's folder, or a GGUF file")
        return read_peft(path, config)
    if not path.is_file():
        raise ModelNotFoundError(f"there is no adapter {path}: name PEFT's folder, or a GGUF file")
    return read_gguf_adapter(path, config)
