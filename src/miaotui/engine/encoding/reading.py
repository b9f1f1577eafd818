"""Readings: plain values that say which part of a text's states a result is made of.

Owns the record and its evaluation over a model. Knows no jobs. Invariant: a reading holds numbers and words alone, so
that another process can evaluate it; there it gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from miaotui.backends.encoder_backend import Floats
from miaotui.engine.encoding.loaded import LoadedEncoder
from miaotui.errors import RequestError

ReadingKind = Literal["embedding", "logits", "probabilities", "states"]


@dataclass(frozen=True)
class StateReading:
    """Part of the states of each text of a job.

    ``dimensions`` and ``normalize`` are those of `LoadedEncoder.embedding`, as is ``prompt_rows``, one number for each
    text. ``rows`` are the rows of each text whose logits are wanted; empty: all.
    """

    kind: ReadingKind
    dimensions: int | None = None
    normalize: bool | None = None
    prompt_rows: Sequence[int] = ()
    rows: Sequence[Sequence[int]] = ()

    def value(self, model: LoadedEncoder, index: int, states: Floats) -> Floats:
        """Return the part of one text's states ``[n, hidden]``."""
        if self.kind == "embedding":
            skipped = self.prompt_rows[index] if self.prompt_rows else 0
            return model.embedding(states, self.dimensions, self.normalize, skipped)
        if self.rows:
            states = states[list(self.rows[index])]
        if self.kind == "states":
            copied: Floats = states.copy()
            return copied
        return model.logits(states) if self.kind == "logits" else model.probabilities(states)

    def joined(self, other: StateReading, texts: int, others: int) -> StateReading:
        """Return a reading of ``texts`` texts followed by ``others`` texts of ``other``, of the same embeddings."""
        if (self.kind, self.dimensions, self.normalize) != (other.kind, other.dimensions, other.normalize):
            raise ValueError("the readings differ: make two jobs of them")
        first, second = self.prompt_rows or (0,) * texts, other.prompt_rows or (0,) * others
        return StateReading(self.kind, self.dimensions, self.normalize, (*first, *second))

    def plain(self) -> dict[str, Any]:
        """Return JSON values, which `read` takes."""
        return {
            "kind": self.kind,
            "dimensions": self.dimensions,
            "normalize": self.normalize,
            "prompt_rows": list(self.prompt_rows),
            "rows": [list(each) for each in self.rows],
        }

    @staticmethod
    def read(values: Mapping[str, Any], texts: int) -> StateReading:
        """Return the reading of plain values for so many texts. Raises `RequestError`."""
        try:
            kind, dimensions, normalize = values["kind"], values["dimensions"], values["normalize"]
            skipped = tuple(int(each) for each in values["prompt_rows"])
            rows = tuple(tuple(int(row) for row in each) for each in values["rows"])
        except (KeyError, TypeError, ValueError) as error:
            raise RequestError(f"the message of a job is damaged: {type(error).__name__}: {error}") from error
        lengths_fit = len(skipped) in (0, texts) and len(rows) in (0, texts)
        if kind not in get_args(ReadingKind) or not lengths_fit or not isinstance(dimensions, int | None):
            raise RequestError("the message of a job is damaged: its reading does not fit its texts")
        return StateReading(kind, dimensions, None if normalize is None else bool(normalize), skipped, rows)
