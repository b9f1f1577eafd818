"""miaotui (秒推): language models that answer in under a second on the computer you already have.

import miaotui
with miaotui.load("smollm2-135m") as llm:
    question = {"role": "user", "content": "What is the capital of France?"}
    print(llm.chat([question], max_tokens=32).text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miaotui.errors import MiaotuiError
from miaotui.libraries import missing
from miaotui.types import Completion, Delta, SamplingParams, Score, Timing, TokenLogprobs

if TYPE_CHECKING:
    from miaotui.llm import LLM, load

__version__ = "0.1.0"
__all__ = ["LLM", "Completion", "Delta", "MiaotuiError", "SamplingParams", "Score", "Timing", "TokenLogprobs", "load"]


def __getattr__(name: str) -> Any:
    """Import `load` and `LLM`, which bring the engine along, when they are first used."""
    if name in ("LLM", "load"):
        try:
            from miaotui import llm  # noqa: PLC0415  (the engine)
        except ModuleNotFoundError as error:
            raise missing(error.name or "") from error
        return getattr(llm, name)
    raise AttributeError(f"module 'miaotui' has no attribute {name!r}")
