"""Filling in between two texts, for all routes that have a suffix.

Owns the refusal of models that only continue, and the tokens that end such an answer. Knows no route's names but
``suffix``. Invariant: no control token of filling in is part of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from miaotui.serve.http.errors import bad_value
from miaotui.served_model import ServedModel
from miaotui.text.infill import Infiller, find_infiller
from miaotui.types import SamplingParams


def infiller_for(model: ServedModel, field: str = "suffix") -> Infiller:
    """Return the maker of a model's prompts. Raises `ApiError` (400) that names ``field`` if it cannot fill in."""
    infiller = find_infiller(model.tokenizer)
    if infiller is None:
        problem = f"{model.name} cannot fill in before a suffix: its vocabulary has no tokens for it; leave it out"
        raise bad_value(field, f"{problem}, or choose a model such as qwen2.5-coder-0.5b")
    return infiller


def ending_with(infiller: Infiller, params: Sequence[SamplingParams]) -> tuple[SamplingParams, ...]:
    """Return parameters of answers that also end at the control tokens of filling in."""
    return tuple(replace(each, stop_token_ids=(*each.stop_token_ids, *infiller.end_ids)) for each in params)
