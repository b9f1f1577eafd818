"""Dates and times in texts, in ISO 8601.

Owns how English and Chinese write them. Knows no models. Invariants: a date is given with its place in the text; one
that can be read in two ways (03/04/2025) or needs a day to count from that is not given has no value.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from miaotui.tasks.extraction.numerals import read_han

DayOrder = Literal["dmy", "mdy"]
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_HAN = "[〇零一二两三四五六七八九十]"
_WORDS = {
    "the day before yesterday": -2, "yesterday": -1, "today": 0, "tomorrow": 1, "the day after tomorrow": 2,
    "前天": -2, "昨天": -1, "昨日": -1, "今天": 0, "今日": 0, "明天": 1, "明日": 1, "后天": 2,
}  # fmt: skip


class FoundValue(NamedTuple):
    """Value ``text[start:end]`` in standard form; None where it cannot be read for certain."""

    start: int
    end: int
    value: str | None


class DateReading(NamedTuple):
    """Day to count from, also the year where none is written; and the order of 03/04/2025."""

    today: dt.date | None = None
    order: DayOrder | None = None


Read = Callable[[re.Match[str], "dt.date | None", "DayOrder | None"], "str | None"]


def find_dates(text: str, reading: DateReading | None = None) -> list[FoundValue]:
    """Return the dates of a text, in order."""
    return _longest(_all_found(text, _DATES, *(reading or DateReading())))


def find_times(text: str) -> list[FoundValue]:
    """Return the times of day of a text as HH:MM, in order."""
    return _longest(_all_found(text, _TIMES, None, None))


def _all_found(
    text: str, forms: tuple[tuple[re.Pattern[str], Read], ...], today: dt.date | None, order: DayOrder | None
) -> Iterator[FoundValue]:
    for pattern, read in forms:
        for match in pattern.finditer(text):
            yield FoundValue(match.start(), match.end(), read(match, today, order))


def _longest(found: Iterator[FoundValue]) -> list[FoundValue]:
    """Return the longest of those that overlap, in order."""
    kept: list[FoundValue] = []
    for each in sorted(found, key=lambda value: (value.start - value.end, value.start)):
        if all(each.end <= other.start or each.start >= other.end for other in kept):
            kept.append(each)
    return sorted(kept)


def _number(text: str | None) -> int | None:
    if not text:
        return None
    return int(text) if text.isdecimal() else read_han(text)


def _iso(year: int | None, month: int | None, day: int | None, today: dt.date | None) -> str | None:
    year = today.year if year is None and today is not None else year
    if year is None or month is None:
        return None
    try:
        found = dt.date(year, month, 1 if day is None else day)
    except ValueError:
        return None
    return found.isoformat() if day is not None else f"{found:%Y-%m}"


def _written(match: re.Match[str], today: dt.date | None, _order: DayOrder | None) -> str | None:
    parts = match.groupdict()
    month = parts.get("month") or ""
    number = _MONTHS.index(month[:3].lower()) + 1 if month[:1].isascii() and month.isalpha() else _number(month)
    return _iso(_number(parts.get("year")), number, _number(parts.get("day")), today)


def _slashed(match: re.Match[str], today: dt.date | None, order: DayOrder | None) -> str | None:
    first, second, year = int(match["first"]), int(match["second"]), int(match["year"])
    if first > 12 or (order == "dmy" and second <= 12):
        return _iso(year, second, first, today)
    if second > 12 or order == "mdy" or first == second:
        return _iso(year, first, second, today)
    return None


def _counted(match: re.Match[str], today: dt.date | None, _order: DayOrder | None) -> str | None:
    return None if today is None else (today + dt.timedelta(days=_WORDS[match[0].lower()])).isoformat()


def _time(match: re.Match[str], _today: dt.date | None, _order: DayOrder | None) -> str | None:
    parts = match.groupdict()
    hour, half = _number(parts["hour"]), (parts.get("half") or "").lower().replace(".", "")
    minute = 30 if parts.get("minute") == "半" else _number(parts.get("minute")) or 0
    if hour is None or hour > 23 or minute > 59:
        return None
    late = half in ("pm", "下午", "晚上", "傍晚", "晚") or (half == "中午" and hour < 11)
    if late and hour < 12:
        hour += 12
    elif half in ("am", "凌晨") and hour == 12:
        hour = 0
    return f"{hour:02}:{minute:02}"


_YEAR, _DAY = r"(?P<year>[12]\d{3})", r"(?P<day>[0-3]?\d)(?!\d)"
_EN_DAY = r"(?P<day>[0-3]?\d)(?:st|nd|rd|th)?"
_DATES: tuple[tuple[re.Pattern[str], Read], ...] = (
    (re.compile(rf"(?<!\d){_YEAR}(?P<mark>[-/.])(?P<month>[01]?\d)(?P=mark){_DAY}"), _written),
    (re.compile(rf"\b{_EN_DAY}(?: of)? {_MONTH},? {_YEAR}\b", re.I), _written),
    (re.compile(rf"\b{_MONTH} {_EN_DAY},? {_YEAR}\b", re.I), _written),
    (re.compile(rf"\b{_EN_DAY}(?: of)? {_MONTH}(?!\w)(?! \d{{4}})", re.I), _written),
    (re.compile(rf"\b{_MONTH} {_EN_DAY}\b(?!,? \d{{4}})", re.I), _written),
    (re.compile(rf"\b{_MONTH} {_YEAR}\b", re.I), _written),
    (re.compile(r"(?<!\d)(?P<first>[0-3]?\d)[/.](?P<second>[0-3]?\d)[/.](?P<year>[12]\d{3})(?!\d)"), _slashed),
    (
        re.compile(
            rf"(?P<year>[12]\d{{3}}|{_HAN}{{4}})\s*年\s*(?P<month>[01]?\d|{_HAN}{{1,3}})\s*月"
            rf"(?:\s*(?P<day>[0-3]?\d|{_HAN}{{1,3}})\s*[日号])?"
        ),
        _written,
    ),
    (re.compile(rf"(?P<month>[01]?\d|{_HAN}{{1,3}})月(?P<day>[0-3]?\d|{_HAN}{{1,3}})[日号]"), _written),
    (re.compile("|".join(sorted(_WORDS, key=len, reverse=True)), re.I), _counted),
)
_ZH_HALF = "(?P<half>凌晨|早上|清晨|上午|中午|下午|傍晚|晚上|晚)?"
_ZH_MINUTE = rf"[0-5]?\d(?=分)|{_HAN}{{1,3}}(?=分)"
_TIMES: tuple[tuple[re.Pattern[str], Read], ...] = (
    (re.compile(rf"{_ZH_HALF}(?<!\d)(?P<hour>[0-2]?\d)[:：](?P<minute>[0-5]\d)(?!\d)(?!\s?[ap]\.?m\b)", re.I), _time),
    (re.compile(r"\b(?P<hour>[01]?\d)(?:[:.](?P<minute>[0-5]\d))?\s?(?P<half>[ap]\.?m\b\.?)", re.I), _time),
    (
        re.compile(
            rf"{_ZH_HALF}(?P<hour>[0-2]?\d|{_HAN}{{1,3}})[点时](?P<minute>半|[0-5]?\d(?=分)|{_HAN}{{1,3}}(?=分))?分?"
        ),
        _time,
    ),
)
