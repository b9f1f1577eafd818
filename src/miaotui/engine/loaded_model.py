"""A model in memory: where it lies, its configuration, what belongs to its text, and its engine's parts.

Owns the record, which `miaotui.runtime` fills. Invariant: everything in it is open until `close`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from miaotui.backends.options import Built
from miaotui.hub.store import content_key
from miaotui.model.config import ModelConfig
from miaotui.text.chat import ChatEncoder, ChatTemplate
from miaotui.text.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """One model in memory."""

    path: Path
    config: ModelConfig
    tokenizer: Tokenizer
    chat: ChatEncoder
    parts: Built

    @property
    def template(self) -> ChatTemplate:
        """Return the model's chat template; not `available` if it has none."""
        return self.chat.template

    @property
    def context(self) -> int:
        """Return tokens of the longest prompt plus answer."""
        return self.parts.backend.limits.context

    def identity(self, engine: str) -> str:
        """Return a digest of the weights, of how the backend keeps them, keys and values, and of ``engine``."""
        return content_key(self.path, {**self.parts.backend.identity._asdict(), "engine": engine})

    def close(self) -> None:
        """Give the weights' memory back. Closing twice does nothing."""
        self.parts.backend.close()
