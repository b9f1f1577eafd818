"""Numbers as they are written: digits with separators, Chinese numerals, and words such as 万 and million.

Owns their reading. Knows no units. Invariant: a number that cannot be read for certain is None, never a guess.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

DIGITS = dict(zip("〇零一二三四五六七八九", (0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9), strict=True)) | {
    "两": 2, "壹": 1, "贰": 2, "叁": 3, "肆": 4, "伍": 5, "陆": 6, "柒": 7, "捌": 8, "玖": 9,
}  # fmt: skip
_SMALL = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "仟": 1000}
SCALES = {
    "千": Decimal(10**3), "万": Decimal(10**4), "百万": Decimal(10**6), "亿": Decimal(10**8),
    "thousand": Decimal(10**3), "k": Decimal(10**3), "million": Decimal(10**6), "m": Decimal(10**6),
    "billion": Decimal(10**9), "bn": Decimal(10**9),
}  # fmt: skip
HAN_NUMBER = "[〇零一二两三四五六七八九十百千万亿壹贰叁肆伍陆柒捌玖拾佰仟]+"
_PLAIN = re.compile(r"\d+(?:\.\d+)?")
_GROUPED = re.compile(r"\d{1,3}(?:([,. '\u00a0\u202f])\d{3})+(?:([.,])\d{1,2})?(?!\d)")
_DECIMAL_COMMA = re.compile(r"\d+,\d{1,2}")


def read_number(text: str) -> Decimal | None:
    """Return the number that a text writes, with digits or Chinese numerals; None if it is none."""
    text = text.strip()
    if re.fullmatch(HAN_NUMBER, text):
        found = read_han(text)
        return None if found is None else Decimal(found)
    if _PLAIN.fullmatch(text):
        return Decimal(text)
    grouped = _GROUPED.fullmatch(text)
    if grouped and grouped[1] != grouped[2]:
        whole, _, rest = text.rpartition(grouped[2]) if grouped[2] else (text, "", "")
        return _decimal(re.sub(r"\D", "", whole) + (f".{rest}" if rest else ""))
    if _DECIMAL_COMMA.fullmatch(text):
        return _decimal(text.replace(",", "."))
    return None


def read_han(text: str) -> int | None:
    """Return the number of Chinese numerals: 三千五百, 一百二十万, 二〇二五; None where the order makes no sense."""
    if all(letter in DIGITS for letter in text):
        return int("".join(str(DIGITS[letter]) for letter in text))
    for mark, unit in (("亿", 10**8), ("万", 10**4)):
        if mark in text:
            before, _, after = text.rpartition(mark)
            high, low = read_han(before) if before else None, read_han(after) if after else 0
            if high is None or low is None or low >= unit:
                return None
            return high * unit + (low * unit // 10 if after and after in DIGITS and low else low)
    return _below_ten_thousand(text)


def _below_ten_thousand(text: str) -> int | None:
    """Return the number of numerals with units; a last digit right after a unit counts the next lower one: 三千五."""
    total = digit = last = 0
    for letter in text:
        if letter in DIGITS:
            digit = DIGITS[letter]
            last = last if digit else 0  # 三千零五
        else:
            unit = _SMALL[letter]
            if last and unit >= last:
                return None
            total, digit, last = total + (digit or 1) * unit, 0, unit
    return total + (digit * last // 10 if digit and last > 10 else digit)


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except InvalidOperation:
        return None
