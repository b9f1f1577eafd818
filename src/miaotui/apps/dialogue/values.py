"""Values of slots in one form: numbers as digits, ranges with one sign, dates without articles.

Owns what makes two wordings of a value equal. Knows no dialogue. Invariant: the form of a form is itself.
"""

from __future__ import annotations

import re
import unicodedata

from miaotui.apps.dialogue.schema import SlotKind

_NUMBERS = {"zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7"}
_NUMBERS |= {"eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12"}
_NUMBERS |= {"couple": "2", "single": "1", "alone": "1", "myself": "1", "just me": "1"}
_CHINESE = {"零": "0", "一": "1", "二": "2", "两": "2", "俩": "2", "三": "3", "四": "4", "五": "5"}
_CHINESE |= {"六": "6", "七": "7", "八": "8", "九": "9", "十": "10"}
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_MONTHS = ("january", "february", "march", "april", "may", "june")
_LATER_MONTHS = ("july", "august", "september", "october", "november", "december")
_DASH = re.compile(r"\s*(?:到|至|[-~\uFF5E\u2013\u2014]+)\s*")
_TWICE = re.compile(r"^(\d[\d.]*)(元|块|分|个?小时|天)-(\d[\d.]*)\2")
_DAY = re.compile(r"\b(\d{1,2})(?:st|nd|rd|th)\b")


def canonical(kind: SlotKind, value: str) -> str:
    """Return the form of a value in which its wordings are equal."""
    text = " ".join(unicodedata.normalize("NFKC", value).casefold().split()).strip(" .,!?;:。，！？；：、")
    if kind == "number":
        return _number(text)
    if kind == "range":
        return _range(text)
    if kind == "date":
        return _date(text)
    return text


def _number(text: str) -> str:
    if digits := re.search(r"\d+(?:\.\d+)?", text):
        return digits[0]
    for word, digits_ in _NUMBERS.items():
        if re.search(rf"\b{word}\b", text):
            return digits_
    return next((_CHINESE[character] for character in text if character in _CHINESE), text)


def _range(text: str) -> str:
    text = unicodedata.normalize("NFKC", text.replace(" ", ""))  # what was apart may make one letter with its accent
    text = _DASH.sub("-", text).replace("块", "元").replace("个小时", "小时").replace("的以", "以")
    for sign, digit in _CHINESE.items():
        text = re.sub(rf"{sign}(?=个?(?:小时|分|天|元))", digit, text)
    return _TWICE.sub(r"\1-\3\2", text)


def _date(text: str) -> str:
    text = re.sub(r"\b(?:the|of|on|this month)\b", " ", text)
    for number, word in enumerate(_ORDINALS, 1):
        text = re.sub(rf"\b{word}\b", str(number), text)
    text = _DAY.sub(r"\1", text)
    words = text.replace(",", " ").split()
    months = [word for word in words if word in _MONTHS or word in _LATER_MONTHS]
    return " ".join(months + [word for word in words if word not in months])
