"""Finds a model's chat templates: in GGUF metadata, or in the files of a model's folder.

Owns the names under which templates are kept. Does not read or run them. Invariant: a model without
a template gives a `ChatTemplate` that is not available, not an error, since it can still generate.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miaotui.errors import ModelFormatError
from miaotui.text.chat import DEFAULT, ChatTemplate
from miaotui.text.model_files import read_json, read_text, token_text
from miaotui.text.tokenizers.gguf_vocabulary import read_vocabulary

TEMPLATE_KEY = "tokenizer.chat_template"  # named templates follow a dot


def chat_from_gguf(metadata: Mapping[str, Any]) -> ChatTemplate:
    """Find the chat templates in a GGUF file's metadata. Raises `ModelFormatError` for damaged keys."""
    sources = {}
    for key in metadata:
        if key == TEMPLATE_KEY or key.startswith(TEMPLATE_KEY + "."):
            name = key.removeprefix(TEMPLATE_KEY).removeprefix(".") or DEFAULT
            sources[name] = _source(metadata[key], key)
    if not sources:
        return ChatTemplate(None)
    vocabulary = read_vocabulary(metadata)
    ids = (vocabulary.token_id(f"{name}_token_id") for name in ("bos", "eos"))
    bos, eos = ("" if token is None else vocabulary.tokens[token] for token in ids)
    return ChatTemplate(sources, bos, eos)


def chat_from_folder(path: Path) -> ChatTemplate:
    """Find the chat templates in a folder: ``*.jinja`` files go before those in JSON files.

    Raises `ModelFormatError` for a file that is damaged.
    """
    tokens = read_json(path / "special_tokens_map.json") | read_json(path / "tokenizer_config.json")
    return ChatTemplate(folder_templates(path), token_text(tokens, "bos_token"), token_text(tokens, "eos_token"))


def folder_templates(path: Path) -> dict[str, str]:
    """Return the chat templates in a folder by name. Raises `ModelFormatError` for a file that is damaged."""
    config = read_json(path / "tokenizer_config.json")
    found = config.get("chat_template") or read_json(path / "chat_template.json").get("chat_template")
    sources = _named(found, "chat_template in tokenizer_config.json")
    more = sorted((path / "additional_chat_templates").glob("*.jinja"))
    sources |= {file.stem: read_text(file) for file in more}
    single = path / "chat_template.jinja"
    if single.is_file():
        sources[DEFAULT] = read_text(single)
    return sources


def _named(found: object, where: str) -> dict[str, str]:
    if not found:
        return {}
    if isinstance(found, list) and all(isinstance(entry, dict) for entry in found):
        found = {str(entry.get("name")): entry.get("template") for entry in found}
    if not isinstance(found, dict):
        found = {DEFAULT: found}
    return {name: _source(text, where) for name, text in found.items()}


def _source(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ModelFormatError(f"{where} must be text or named texts, not {type(value).__name__}")
    return value
