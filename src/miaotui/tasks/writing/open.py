"""The chat model of a call: opened for the call, or the caller's own.

Owns the choice between both. Knows no task. Invariant: a model that a caller gives stays open.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

from miaotui.llm import LLM, load


def opened_llm(model: str | os.PathLike[str] | LLM) -> AbstractContextManager[LLM]:
    """Open a chat model for a block, or use the one that is given and leave it open."""
    return nullcontext(model) if isinstance(model, LLM) else load(model)
