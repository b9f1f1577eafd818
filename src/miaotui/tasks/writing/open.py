"""The model of a call that writes: opened for the call, or the caller's own.

Owns the choice between both. Knows no task. Invariant: a model that a caller gives stays open.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

from miaotui.errors import FieldError
from miaotui.llm import LLM, load
from miaotui.seq2seq.model import Seq2Seq

WritingModel = str | os.PathLike[str] | LLM | Seq2Seq


def opened_writer(model: WritingModel) -> AbstractContextManager[LLM | Seq2Seq]:
    """Open a chat model or an encoder-decoder for a block, or use the one that is given and leave it open."""
    return nullcontext(model) if isinstance(model, (LLM, Seq2Seq)) else load(model)


def opened_llm(model: WritingModel) -> AbstractContextManager[LLM]:
    """Open a chat model for a block, or use the one that is given. Raises `FieldError` for an encoder-decoder."""
    if isinstance(model, Seq2Seq):
        raise FieldError("model", "an encoder-decoder follows no instructions: give a chat model")
    return nullcontext(model) if isinstance(model, LLM) else load(model)
