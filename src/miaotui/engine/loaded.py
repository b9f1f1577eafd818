"""A model made ready: its parts, its tokenizer, its chat template.

Owns the order in which they are opened. Knows nothing of prompts or of who will ask. Invariant:
either everything is open, or nothing is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from miaotui.backends.cpu.build import build
from miaotui.backends.options import Built, EngineOptions, Progress
from miaotui.config import Settings
from miaotui.model.config import ModelConfig
from miaotui.model.reading.files import open_model
from miaotui.text.chat import ChatEncoder
from miaotui.text.load import load_chat_template, load_tokenizer
from miaotui.text.templates.chat_template import ChatTemplate
from miaotui.text.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Loaded:
    """One model in memory; close `Built.backend` in the end."""

    path: Path
    config: ModelConfig
    tokenizer: Tokenizer
    chat: ChatEncoder
    parts: Built

    @property
    def template(self) -> ChatTemplate:
        """The model's chat template; not `available` if it has none."""
        return self.chat.template


def load_model(path: Path, options: EngineOptions, settings: Settings, progress: Progress | None = None) -> Loaded:
    """Open the model at ``path`` (see `resolve`). Raises a `MiaotuiError`."""
    with open_model(path) as files:
        config = files.config
        tokenizer = load_tokenizer(files.metadata, files.folder)
        template = load_chat_template(files.metadata, files.folder)
    chat = ChatEncoder(template, tokenizer)
    return Loaded(path, config, tokenizer, chat, build(path, config, options, settings, progress))
