"""Answers under a grammar, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from miaotui.engine.constraint import Constraint
from miaotui.engine.engine import Engine
from miaotui.types import Completion, SamplingParams
from tiny_engine import run

PROMPT = [104, 101, 108, 108, 111]


SHORT_TEXT = {"type": "string", "maxLength": 8}


def answer(engine: Engine, constraint: Constraint, **params: Any) -> Completion:
    wanted = SamplingParams(**{"max_tokens": 400, "temperature": 1.0, **params})
    request = engine.prepare(PROMPT, wanted, constraint=constraint)
    engine.enter(request)
    run(engine)
    return request.completion()


def may_follow(constraint: Constraint) -> set[int]:
    mask = constraint.mask()
    assert mask is not None
    return {int(i) for i in np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))}


def read(constraint: Constraint, grammars_of: Engine, text: str) -> None:
    """Accept a text token by token, each allowed by the mask before it."""
    for token in grammars_of.tokenizer.encode(text, special=False):
        mask = constraint.mask()
        assert mask is None or token in may_follow(constraint)
        constraint.accept(token)
