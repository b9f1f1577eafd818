"""Slots of a dialogue: their names, domains and kinds of values.

Owns the checks of a schema. Knows neither texts nor learning. Invariant: a slot's key (domain and name) is unique.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from miaotui.errors import RequestError

SlotKind = Literal["text", "number", "date", "range", "boolean", "choice"]
KINDS: tuple[str, ...] = get_args(SlotKind)
MAX_SLOTS, MAX_VALUES, MAX_NAME = 256, 10_000, 200

SlotKey = tuple[str, str]  # domain, name


@dataclass(frozen=True)
class SlotSchema:
    """Slot of a dialogue.

    ``domain`` groups slots of one subject ("hotel"), ``cues`` are words that speak of a boolean slot, and ``values``
    are the known values of a choice, of which several may hold at once with ``many``.
    """

    name: str
    kind: SlotKind = "text"
    domain: str = ""
    cues: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    many: bool = False

    @property
    def key(self) -> SlotKey:
        """Return domain and name."""
        return self.domain, self.name


@dataclass(frozen=True)
class DialogueSchema:
    """Slots that a tracker fills. Raises `RequestError` for slots that contradict each other."""

    slots: tuple[SlotSchema, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.slots) <= MAX_SLOTS:
            raise RequestError(f"a schema has 1 to {MAX_SLOTS} slots, not {len(self.slots)}")
        seen = set[SlotKey]()
        for slot in self.slots:
            where = f"slot {slot.name!r}"
            if not slot.name or len(slot.name) > MAX_NAME or len(slot.domain) > MAX_NAME:
                raise RequestError(f"{where}: names have 1 to {MAX_NAME} characters")
            if slot.kind not in KINDS:
                raise RequestError(f"{where}: kind must be one of {', '.join(KINDS)}, not {slot.kind!r}")
            if slot.key in seen:
                raise RequestError(f"{where} is there twice: give each its domain, or another name")
            if slot.kind == "boolean" and not slot.cues:
                raise RequestError(f"{where}: a boolean slot needs cues, the words that speak of it")
            if slot.kind == "choice" and not slot.values:
                raise RequestError(f"{where}: a choice needs its values")
            if len(slot.values) > MAX_VALUES:
                raise RequestError(f"{where}: at most {MAX_VALUES} values, not {len(slot.values)}")
            seen.add(slot.key)

    @property
    def by_key(self) -> Mapping[SlotKey, SlotSchema]:
        """Return the slots by domain and name."""
        return {slot.key: slot for slot in self.slots}

    @property
    def domains(self) -> tuple[str, ...]:
        """Return the domains in the order of the slots."""
        return tuple(dict.fromkeys(slot.domain for slot in self.slots))

    def to_json(self) -> list[dict[str, Any]]:
        """Return the slots as plain values."""
        return [vars(slot) | {"cues": list(slot.cues), "values": list(slot.values)} for slot in self.slots]

    @staticmethod
    def from_json(rows: object) -> DialogueSchema:
        """Read what `to_json` gives. Raises `RequestError`."""
        if not isinstance(rows, Sequence) or isinstance(rows, str):
            raise RequestError("a schema must be a list of slots")
        return DialogueSchema(tuple(_slot(number, row) for number, row in enumerate(rows)))


def _slot(number: int, row: object) -> SlotSchema:
    where = f"slots[{number}]"
    if not isinstance(row, Mapping):
        raise RequestError(f"{where} must be an object, not {type(row).__name__}")
    known = {"name", "kind", "domain", "cues", "values", "many"}
    if unknown := sorted(set(map(str, row)) - known):
        raise RequestError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
    for field in ("name", "kind", "domain"):
        if not isinstance(row.get(field, ""), str):
            raise RequestError(f"{where}: {field} must be text")
    lists = {field: row.get(field, []) for field in ("cues", "values")}
    for field, each in lists.items():
        if not isinstance(each, Sequence) or isinstance(each, str) or not all(isinstance(v, str) for v in each):
            raise RequestError(f"{where}: {field} must be a list of texts")
    return SlotSchema(
        name=row.get("name", ""),
        kind=row.get("kind", "text"),
        domain=row.get("domain", ""),
        cues=tuple(lists["cues"]),
        values=tuple(lists["values"]),
        many=bool(row.get("many", False)),
    )
