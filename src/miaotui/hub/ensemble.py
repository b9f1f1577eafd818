"""Reads a description of several models that answer as one: ``NAME.ensemble.json``.

    {"members": [{"model": "smollm2-135m", "weight": 2}, {"model": "./tuned"}]}

Owns the form. Knows no model. Invariant: weights are positive and sum to 1; a description names no other description.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from miaotui.errors import ModelFormatError
from miaotui.hub.formats.untrusted_json import read_object

SUFFIX = ".ensemble.json"
MOST_MEMBERS = 8


@dataclass(frozen=True)
class EnsembleMember:
    """One model, by name or path, and its share of the probabilities."""

    model: str
    weight: float


def is_ensemble(path: Path) -> bool:
    """Return whether a path is that of a description."""
    return path.name.endswith(SUFFIX)


def read_ensemble(path: Path) -> tuple[EnsembleMember, ...]:
    """Read a description; relative paths (./, ../) are from its folder. Raises a `ModelError`."""
    values = read_object(path)
    given = values.get("members")
    if values.keys() != {"members"} or not isinstance(given, list) or not 2 <= len(given) <= MOST_MEMBERS:
        raise ModelFormatError(
            f"{path} must hold 'members' alone, 2 to {MOST_MEMBERS} of them, such as "
            '{"members": [{"model": "smollm2-135m", "weight": 1}, {"model": "./tuned"}]}'
        )
    members = [_member(path, each) for each in given]
    total = sum(each.weight for each in members)
    return tuple(EnsembleMember(each.model, each.weight / total) for each in members)


def _member(path: Path, values: object) -> EnsembleMember:
    if not isinstance(values, dict) or not isinstance(values.get("model"), str) or values.keys() - {"model", "weight"}:
        raise ModelFormatError(f"{path}: a member has 'model' and perhaps 'weight', not {str(values)[:80]}")
    name, weight = values["model"], values.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise ModelFormatError(f"{path}: the weight of {name} must be a number above 0, not {weight!r}")
    if name.endswith(SUFFIX):
        raise ModelFormatError(f"{path}: {name} is an ensemble itself: name its members here")
    local = name.startswith(("./", "../"))
    return EnsembleMember(str(path.parent / name) if local else name, float(weight))
