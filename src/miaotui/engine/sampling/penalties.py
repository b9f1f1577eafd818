"""Penalties and biases: changes of the logits by a sequence's history and its caller's parameters.

Owns the counts of seen tokens, updated at O(1) per token and undone in reverse order. Knows nothing of the choice of
tokens. Invariant: after ``accept`` and ``rollback`` in any proper nesting, the state equals one built from the
remaining tokens alone. Repetition penalty as in CTRL (Keskar et al. 2019, section 4.1), over prompt and answer;
presence and frequency penalties as in OpenAI's API reference, over the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from miaotui.types import SamplingParams

_FLOAT_MAX = float(np.finfo(np.float32).max)
_BOUND = 1e30  # parameters beyond it act like it: everything stays finite in float64


class LogitBias:
    """Constants added to some tokens' logits; masked tokens (-inf) stay masked."""

    def __init__(self, bias: Mapping[int, float]) -> None:
        self._ids = np.fromiter(bias.keys(), np.int64, len(bias))
        self._values = np.fromiter((_bounded(v) for v in bias.values()), np.float64, len(bias))

    def apply(self, row: NDArray[np.float32]) -> None:
        """Add the biases to ``row [vocab]`` in place."""
        _write(row, self._ids, row[self._ids].astype(np.float64) + self._values)


class Penalties:
    """One sequence's repetition, presence and frequency penalties, and the counts they need."""

    def __init__(self, params: SamplingParams, prompt_ids: Iterable[int]) -> None:
        self._repetition = min(max(params.repetition_penalty, 1 / _BOUND), _BOUND)
        self._presence = _bounded(params.presence_penalty)
        self._frequency = _bounded(params.frequency_penalty)
        prompt = dict.fromkeys(prompt_ids) if self._repetition != 1.0 else {}
        self._slots = {token: slot for slot, token in enumerate(prompt)}
        self._prompt_slots = len(self._slots)
        self._ids = np.zeros(max(64, 2 * len(self._slots)), np.int64)
        self._ids[: len(self._slots)] = list(self._slots)
        self._counts = np.zeros(self._ids.size)  # how often each was answered; 0: seen in the prompt only
        self._answer: list[int] = []

    def apply(self, row: NDArray[np.float32]) -> None:
        """Penalize the seen tokens of ``row [vocab]`` in place; repetition comes first."""
        seen = len(self._slots)
        ids, counts = self._ids[:seen], self._counts[:seen]
        logits = row[ids].astype(np.float64)
        logits = np.where(logits > 0, logits / self._repetition, logits * self._repetition)
        _write(row, ids, logits - (self._frequency * counts + self._presence * (counts > 0)))

    def accept(self, token_id: int) -> None:
        """Count one answered token."""
        slot = self._slots.setdefault(token_id, len(self._slots))
        if slot == self._ids.size:
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[slot] = token_id
        self._counts[slot] += 1
        self._answer.append(token_id)

    def rollback(self, n: int) -> None:
        """Forget the last ``n`` answered tokens."""
        for _ in range(n):
            token_id = self._answer.pop()
            slot = self._slots[token_id]
            self._counts[slot] -= 1
            if self._counts[slot] == 0 and slot >= self._prompt_slots:
                del self._slots[token_id]  # it was the last slot taken: later ones are undone already

    def fork(self) -> Penalties:
        """Return a copy that goes its own way."""
        twin = Penalties.__new__(Penalties)
        twin.__dict__.update(self.__dict__)
        twin._slots = self._slots.copy()
        twin._ids = self._ids.copy()
        twin._counts = self._counts.copy()
        twin._answer = self._answer.copy()
        return twin


def _bounded(value: float) -> float:
    return min(max(value, -_BOUND), _BOUND)


def _write(row: NDArray[np.float32], ids: NDArray[np.int64], logits: NDArray[np.float64]) -> None:
    """Store edited logits as finite float32; those of masked tokens stay -inf."""
    row[ids] = np.where(row[ids] == -np.inf, -np.inf, np.clip(logits, -_FLOAT_MAX, _FLOAT_MAX))
