"""Loads a model's tokenizer and chat template from GGUF metadata or a folder.

Owns the choice between GGUF metadata and a folder, as `model.reading.files.ModelFiles` holds them. Invariant: GGUF
metadata come first; a ``tokenizer.json`` beside the file counts only where they name a kind of tokenizer that is not
known here, and only if its tokens are those of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.text.chat import ChatTemplate
from miaotui.text.templates.sources import chat_from_folder, chat_from_gguf
from miaotui.text.tokenizers.from_gguf import from_gguf
from miaotui.text.tokenizers.gguf_vocabulary import TokenType, read_vocabulary
from miaotui.text.tokenizers.tokenizer import Tokenizer


def load_tokenizer(metadata: Mapping[str, Any] | None, folder: Path | None) -> Tokenizer:
    """Load the tokenizer of a GGUF file's `metadata`, or else of the `folder` that the model lies in.

    Raises `ModelError`.
    """
    if metadata is not None:
        try:
            return from_gguf(metadata)
        except UnsupportedModelError:
            if folder is None or not (folder / "tokenizer.json").is_file():
                raise
    from miaotui.text.tokenizers.from_folder import from_folder  # noqa: PLC0415  (a GGUF file needs no other library)

    return from_folder(_given(folder), _ordinary_tokens(metadata))


def _ordinary_tokens(metadata: Mapping[str, Any] | None) -> Mapping[str, int] | None:
    """Return the ids of a GGUF file's ordinary tokens by text; None without such a file."""
    if metadata is None:
        return None
    vocabulary = read_vocabulary(metadata)
    return vocabulary.plain(set(TokenType) - {TokenType.NORMAL})


def load_chat_template(metadata: Mapping[str, Any] | None, folder: Path | None) -> ChatTemplate:
    """Load the chat template from the same place; it is not `available` if the model has none."""
    if metadata is not None:
        return chat_from_gguf(metadata)
    return chat_from_folder(_given(folder))


def _given(folder: Path | None) -> Path:
    if folder is None:
        raise ModelFormatError("a tokenizer needs a GGUF file or a folder; name one of them")
    return folder
