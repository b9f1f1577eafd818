"""Logs of events: who took which item, when, with which weight; checked row by row.

Owns the checks and the numbering of users and items. Knows no model. Invariants: a row that cannot be used is left out
with its reason and the others are used; a pair of user and item stands once, with its latest time and weight; events of
a log are ordered by time, then by their place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import FieldError, RequestError
from miaotui.tasks.result import RowError

MAX_EVENTS = 20_000_000
MAX_NAME_CHARACTERS = 512
MAX_WEIGHT = 1e6
Row = Sequence[Any]
"""User, item and, if they are known, time (in seconds, or a date with or without a time of day) and weight."""
_DATE = re.compile(r"(\d{4})[-/.年](\d{1,2})[-/.月](\d{1,2})日?(?:[ T]+(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?)?Z?")


@dataclass(frozen=True)
class EventLog:
    """Events by number of user and of item, ordered by time; ``errors`` has the rows that were left out.

    ``user``, ``item``: int32 ``[n]``; ``time_s``: float64 ``[n]``; ``weight``: float32 ``[n]``, above 0.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time_s: NDArray[np.float64]
    weight: NDArray[np.float32]
    errors: tuple[RowError, ...] = ()

    def __len__(self) -> int:
        return len(self.user)

    def part(self, chosen: NDArray[np.bool_]) -> EventLog:
        """Return some of the events, with the numbers of users and items as they are. ``chosen``: bool ``[n]``."""
        return EventLog(
            self.users, self.items, self.user[chosen], self.item[chosen], self.time_s[chosen], self.weight[chosen]
        )


def read_events(rows: Iterable[Row], users: Iterable[str] = (), items: Iterable[str] = ()) -> EventLog:
    """Return the sound rows as a log; names in ``users`` and ``items`` keep their numbers.

    Raises `RequestError` for more than `MAX_EVENTS` rows.
    """
    user_numbers = {name: number for number, name in enumerate(users)}
    item_numbers = {name: number for number, name in enumerate(items)}
    kept: dict[tuple[int, int], tuple[float, float, int]] = {}
    errors: list[RowError] = []
    for index, row in enumerate(rows):
        if index >= MAX_EVENTS:
            raise RequestError(f"the log has more than {MAX_EVENTS:,} events: give the latest ones")
        try:
            user, item, time_s, weight = checked_row(row)
        except FieldError as error:
            errors.append(RowError(index, str(error)))
            continue
        pair = (user_numbers.setdefault(user, len(user_numbers)), item_numbers.setdefault(item, len(item_numbers)))
        before = kept.get(pair)
        if before is not None and before[:2] == (time_s, weight):
            errors.append(RowError(index, "event: an earlier row is the same"))
        elif before is None or time_s >= before[0]:
            kept[pair] = (time_s, weight, index)
    return _ordered(kept, tuple(user_numbers), tuple(item_numbers), tuple(errors))


def merged(old: EventLog, new: EventLog) -> EventLog:
    """Return both logs as one, with the names of ``new``, which begin with those of ``old``.

    A pair of user and item that is in both keeps the later event, that of ``new`` at equal times.
    """
    arrays = [np.concatenate([getattr(old, name), getattr(new, name)]) for name in ("user", "item", "time_s", "weight")]
    user, item, time_s, weight = arrays
    order = np.lexsort((np.arange(len(user)), time_s))
    pairs = user.astype(np.int64)[order] * len(new.items) + item[order]
    _, last = np.unique(pairs[::-1], return_index=True)
    kept = order[np.sort(len(order) - 1 - last)]
    return EventLog(new.users, new.items, user[kept], item[kept], time_s[kept], weight[kept])


def checked_row(row: Row) -> tuple[str, str, float, float]:
    """Return user, item, time and weight of a row. Raises `FieldError`."""
    if isinstance(row, (str, bytes)) or not isinstance(row, Sequence) or not 2 <= len(row) <= 4:
        raise FieldError("event", "must be user and item, then perhaps a time in seconds and a weight")
    time_s = _seconds(row[2] if len(row) > 2 else None)
    weight = _number("weight", row[3] if len(row) > 3 else None, 1.0)
    if not 0 < weight <= MAX_WEIGHT:
        raise FieldError("weight", f"must be above 0 and at most {MAX_WEIGHT:,.0f}, not {weight:g}")
    return checked_name("user", row[0]), checked_name("item", row[1]), time_s, weight


def checked_name(field: str, value: Any) -> str:
    """Return the name of a user or an item; whole numbers are names too. Raises `FieldError`."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise FieldError(field, "must be a name or a whole number, and not empty")
    if len(value) > MAX_NAME_CHARACTERS:
        raise FieldError(field, f"has {len(value):,} characters, and may have {MAX_NAME_CHARACTERS}")
    return value.strip()


def _seconds(value: Any) -> float:
    """Return a time in seconds; a date, as spreadsheets write it, counts in UTC. Raises `FieldError`."""
    date = _DATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if date is None:
        try:
            return _number("time", value, 0.0)
        except FieldError as error:
            raise FieldError(
                "time", f"must be seconds or a date such as 2025-03-01 09:30, not {value!r:.40}"
            ) from error
    try:
        year, month, day, hour, minute, second = (int(each or 0) for each in date.groups())
        return datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc).timestamp()
    except ValueError as error:
        raise FieldError("time", f"is no date of the calendar: {value!r:.40}") from error


def _number(field: str, value: Any, default: float) -> float:
    if value is None or value == "":
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise FieldError(field, f"must be a finite number, not {value!r:.40}")
    return number


def _ordered(
    kept: dict[tuple[int, int], tuple[float, float, int]],
    users: tuple[str, ...],
    items: tuple[str, ...],
    errors: tuple[RowError, ...],
) -> EventLog:
    pairs = np.array(list(kept), np.int32).reshape(-1, 2)
    values = np.array(list(kept.values()), np.float64).reshape(-1, 3)
    order = np.lexsort((values[:, 2], values[:, 0]))
    pairs, values = pairs[order], values[order]
    weight = values[:, 1].astype(np.float32)
    return EventLog(users, items, pairs[:, 0].copy(), pairs[:, 1].copy(), values[:, 0].copy(), weight, errors)
