"""Choice of the engine of labels by a measured table: a head, likeness to label names, or a chat model's logits.

Owns the table (`engine_table.json`, written by ``benchmarks/tasks/engines.py``) and the choice. Knows no models.
Invariants: of the engines whose needs are met and whose time per text is allowed, the one that was right most often is
chosen; accuracies are compared over sets on which all of them were measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from miaotui.errors import FieldError

EngineName = Literal["head", "similarity", "logits"]
Script = Literal["latin", "other"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
ALLOWED_MS = 50.0  # for a text, where no deadline says more
TABLE = Path(__file__).with_name("engine_table.json")


@dataclass(frozen=True)
class MeasuredEngine:
    """Row of the table: accuracy by set, and milliseconds per text, in a batch, of an engine.

    ``examples`` is how many examples of each label it learned from.
    """

    engine: EngineName
    script: Script
    examples: int
    model: str
    accuracy: Mapping[str, float]
    ms_per_text: float

    def over(self, sets: Collection[str]) -> float:
        """Return the mean accuracy over some sets; over all of its own where it was measured on none of them."""
        shares = [self.accuracy[name] for name in sets if name in self.accuracy] or list(self.accuracy.values())
        return math.fsum(shares) / len(shares)


@dataclass(frozen=True)
class EngineChoice:
    """Chosen engine, and the rows of the table that it was chosen from, the most often right first."""

    engine: EngineName
    rows: tuple[MeasuredEngine, ...]
    sets: tuple[str, ...]
    allowed_ms: float
    machine: str
    named: bool = False

    def lines(self) -> list[str]:
        """Return the choice in words: one line, and one for each row."""
        why = "named" if self.named else f"right most often within {self.allowed_ms:g} ms a text"
        shown = [
            f"  {each.engine:10} {each.model:20} {each.examples:>2} examples a label  "
            f"{each.over(self.sets):.1%} right  {each.ms_per_text:.1f} ms a text"
            for each in self.rows
        ]
        return [f"engine: {self.engine} ({why}; {', '.join(self.sets)}; measured on {self.machine})", *shown]


@cache
def measured_engines() -> tuple[tuple[MeasuredEngine, ...], str]:
    """Return the rows of the table, and the machine that its times were measured on."""
    values: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    rows = tuple(MeasuredEngine(**row) for row in values["rows"])
    return rows, str(values["machine"])


def choose_engine(
    n_labels: int,
    n_examples: int,
    *,
    is_latin: bool,
    allowed_ms: float = ALLOWED_MS,
    engine: str | None = None,
    engines: Sequence[EngineName] = ENGINES,
) -> EngineChoice:
    """Return the engine for texts with ``n_labels`` labels and ``n_examples`` examples of them together.

    ``engine`` names one, which is taken whatever it costs. ``engines`` are those that the caller can run. Raises
    `FieldError` for a name of none, and for a head without examples.
    """
    if engine is not None and engine not in ENGINES:
        raise FieldError("engine", f"must be one of {', '.join(ENGINES)}, not {engine!r}")
    if engine == "head" and not n_examples:
        raise FieldError("engine", "a head needs examples: give examples, or choose similarity or logits")
    script: Script = "latin" if is_latin else "other"
    table, machine = measured_engines()
    known = [row for row in table if row.script == script and row.engine in engines]
    known = [row for row in known if row.engine != "head" or row is _head_row(known, n_examples / max(n_labels, 1))]
    sets = tuple(name for name in (known[0].accuracy if known else ()) if all(name in row.accuracy for row in known))
    rows = tuple(sorted(known, key=lambda row: (-row.over(sets), row.ms_per_text)))
    if engine is not None:
        return EngineChoice(engine, rows, sets, allowed_ms, machine, named=True)
    fitting = [row.engine for row in rows if row.ms_per_text <= allowed_ms]
    return EngineChoice(fitting[0] if fitting else fastest(rows, engines), rows, sets, allowed_ms, machine)


def _head_row(rows: Sequence[MeasuredEngine], examples: float) -> MeasuredEngine:
    """Return the head that learned from most examples of those that are there, or from fewest."""
    heads = sorted((row for row in rows if row.engine == "head"), key=lambda row: row.examples)
    return next((row for row in reversed(heads) if row.examples <= examples), heads[0])


def fastest(rows: Sequence[MeasuredEngine], engines: Sequence[EngineName]) -> EngineName:
    """Return the engine that takes the least time; the first that can be run where there is no row."""
    return min(rows, key=lambda row: row.ms_per_text).engine if rows else engines[0]
