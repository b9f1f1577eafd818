"""Loss of files against one model: distributions over test texts, and questions that they answer otherwise.

Owns the reference's streams, which are computed once. Knows no method. Invariant: every file is measured on the same
texts and questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from miaotui.optimize.card import QualityLoss, quality_loss
from miaotui.optimize.layerwise import Array, LayerwiseModel, Tokens, head_divergence
from miaotui.optimize.source import GgufSource, open_source
from miaotui.optimize.texts.choices import choice_rows, chosen


class LossMeter:
    """Measures files against ``reference`` over ``rows`` of tokens; of the vocabulary the first tokens, or all."""

    def __init__(self, reference: GgufSource, rows: Tokens, tokenizer: Any, vocabulary: int | None = None) -> None:
        self.rows, self._vocabulary = rows, vocabulary
        context = reference.config.context_length
        choices = choice_rows(tokenizer)
        self._choices = choices if max(len(row.tokens) for row in choices) <= context else []
        self.base = LayerwiseModel(reference.config, reference.canonical())
        states = self.base.states([*rows, *(row.tokens for row in self._choices)])
        self.states, self._choice_states = states[: len(rows)], states[len(rows) :]

    def of_file(self, file: Path) -> QualityLoss:
        """Return the loss of the model in a GGUF file."""
        with open_source(file) as made:
            return self.of_source(made)

    def of_source(self, made: GgufSource) -> QualityLoss:
        """Return the loss of an open model."""
        other = LayerwiseModel(made.config, made.canonical())
        states = other.states([*self.rows, *(row.tokens for row in self._choices)])
        found = self._compared(other, self.states, states[: len(self.rows)], self.rows)
        if not self._choices:
            return quality_loss(found)
        tokens = [row.tokens for row in self._choices]
        choices = self._compared(other, self._choice_states, states[len(self.rows) :], tokens)
        bounds = [*choices.starts, len(choices.kl)]
        first, second = (
            chosen(self._choices, [each[bounds[i] : bounds[i + 1]] for i in range(len(tokens))])
            for each in (choices.surprise, choices.other_surprise)
        )
        flips = int(np.sum(np.array(first) != np.array(second)))
        right = [each.count(0) for each in (first, second)]
        return replace(quality_loss(found), questions=len(first), flips=flips, right=right[1], right_of_source=right[0])

    def _compared(self, other: LayerwiseModel, ours: Sequence[Array], theirs: Sequence[Array], rows: Tokens) -> Any:
        return head_divergence(self.base.head(), ours, other.head(), theirs, rows, self._vocabulary)
