"""Amounts of money and plain numbers in texts: a decimal and a currency.

Owns how English and Chinese write them. Knows no models. Invariants: an amount is given with its place in the text;
``¥`` is yuan in a Chinese text and yen in another; a currency that is not written is None.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NamedTuple

from miaotui.retrieval.query.analysis import has_chinese
from miaotui.tasks.extraction.numerals import HAN_NUMBER, SCALES, read_number

_SYMBOLS = {
    "US$": "USD", "HK$": "HKD", "A$": "AUD", "C$": "CAD", "$": "USD", "€": "EUR", "£": "GBP", "₹": "INR", "₩": "KRW",
}  # fmt: skip
_CODES = (
    *("USD", "EUR", "GBP", "CNY", "RMB", "JPY", "HKD", "AUD", "CAD", "CHF"),
    *("INR", "KRW", "SGD", "SEK", "NOK", "DKK", "PLN", "CZK", "NZD"),
)
_NAMES = {
    "dollar": "USD", "euro": "EUR", "pound": "GBP", "yuan": "CNY", "yen": "JPY", "franc": "CHF", "rupee": "INR",
    "人民币": "CNY", "美元": "USD", "美金": "USD", "欧元": "EUR", "英镑": "GBP", "日元": "JPY", "港元": "HKD",
    "港币": "HKD", "韩元": "KRW", "元整": "CNY", "元": "CNY", "块钱": "CNY", "块": "CNY", "圆": "CNY",
}  # fmt: skip
_DIGITS = r"\d+(?:[,. '\u00a0\u202f]\d{3})*(?:[.,]\d+)?"
_SCALE = r"(?:\s?(?P<scale>百万|千|万|亿|thousand\b|million\b|billion\b|bn\b|k\b|m\b))?"
_SYMBOL = "|".join(re.escape(each) for each in sorted([*_SYMBOLS, "¥", "￥"], key=len, reverse=True))
_UNIT = "|".join(f"{each}s?\\b" if each.isascii() else each for each in _NAMES)
_CODE = rf"\b(?:{'|'.join(_CODES)})\b"
_VALUE = rf"(?P<number>{_DIGITS}|{HAN_NUMBER}){_SCALE}"
_AMOUNTS = (
    re.compile(rf"(?P<unit>{_SYMBOL}|{_CODE}|人民币)\s?{_VALUE}(?:元整?)?", re.I),
    re.compile(rf"(?<![\d.,]){_VALUE}\s?(?P<unit>{_UNIT}|{_CODE}|{_SYMBOL})", re.I),
)
_NUMBER = re.compile(rf"(?<![A-Za-z0-9_.,])-?(?:{_DIGITS})(?![\d])|{HAN_NUMBER}")


class FoundAmount(NamedTuple):
    """Amount ``text[start:end]``: a plain decimal, and the currency's ISO 4217 code."""

    start: int
    end: int
    amount: str
    currency: str | None


def find_amounts(text: str) -> list[FoundAmount]:
    """Return the amounts of money of a text, in order."""
    found: list[FoundAmount] = []
    for pattern in _AMOUNTS:
        for match in pattern.finditer(text):
            number = _scaled(match)
            if number is None or any(match.start() < each.end and each.start < match.end() for each in found):
                continue
            found.append(FoundAmount(match.start(), match.end(), plain(number), _currency(match["unit"], text)))
    return sorted(found)


def find_numbers(text: str) -> list[FoundAmount]:
    """Return the numbers of a text, in order; those of Chinese numerals have more than one, or a unit after them."""
    found = []
    for match in _NUMBER.finditer(text):
        number = read_number(match[0].lstrip("-"))
        if number is None or (has_chinese(match[0]) and match[0] in "万亿十百千"):
            continue
        found.append(FoundAmount(match.start(), match.end(), plain(-number if match[0][0] == "-" else number), None))
    return found


def plain(number: Decimal) -> str:
    """Return a decimal without an exponent; cents are kept as they were written."""
    return format(number, "f")


def _scaled(match: re.Match[str]) -> Decimal | None:
    number = read_number(match["number"])
    scale = (match["scale"] or "").lower()
    if number is None or not scale:
        return number
    product = number * SCALES[scale]
    return product.to_integral_value() if product == product.to_integral_value() else product.normalize()


def _currency(unit: str, text: str) -> str | None:
    if unit in ("¥", "￥"):
        return "CNY" if has_chinese(text) else "JPY"
    upper = unit.upper()
    if upper in _CODES:
        return "CNY" if upper == "RMB" else upper
    if upper in _SYMBOLS:
        return _SYMBOLS[upper]
    return _NAMES.get(unit.lower()) or _NAMES.get(unit.lower().removesuffix("s"))
