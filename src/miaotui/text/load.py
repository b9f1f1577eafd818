"""Loads a model's tokenizer and chat template from GGUF metadata or a folder.

Owns the choice between GGUF metadata and a folder. Invariant: exactly one of them is given, as
`model.reading.files.ModelFiles` holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miaotui.errors import ModelFormatError
from miaotui.text.chat import ChatTemplate
from miaotui.text.templates.sources import chat_from_folder, chat_from_gguf
from miaotui.text.tokenizers.from_gguf import from_gguf
from miaotui.text.tokenizers.tokenizer import Tokenizer


def load_tokenizer(metadata: Mapping[str, Any] | None, folder: Path | None) -> Tokenizer:
    """Load the tokenizer of a GGUF file's `metadata` or of a model's `folder`; raises `ModelError`."""
    if metadata is not None:
        return from_gguf(metadata)
    from miaotui.text.tokenizers.from_folder import from_folder  # noqa: PLC0415  (a GGUF file needs no other library)

    return from_folder(_given(folder))


def load_chat_template(metadata: Mapping[str, Any] | None, folder: Path | None) -> ChatTemplate:
    """Load the chat template from the same place; it is not `available` if the model has none."""
    if metadata is not None:
        return chat_from_gguf(metadata)
    return chat_from_folder(_given(folder))


def _given(folder: Path | None) -> Path:
    if folder is None:
        raise ModelFormatError("a tokenizer needs a GGUF file or a folder; name one of them")
    return folder
