"""Similarity of questions: when one answer may serve both.

Owns normalisation, content units and *marks*: the negations, numbers and names of a question, in their order, in
English and Chinese. Knows no model and no cache. Invariant: marks err towards difference, so a doubtful pair never
counts as equal. Shingles follow Broder, "On the resemblance and containment of documents" (1997), over content words
or Han characters.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

MAX_QUESTION_CHARS = 2_000  # a longer question is never matched by likeness
LEAST_UNITS = 3  # nor one that says so little
FULL_UNION = 24  # shingles

_HAN = "\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_HAN}]|\d+(?:[.,:/]\d+)*%?|(?:(?![{_HAN}])[^\W\d_])+(?:['’](?:(?![{_HAN}])[^\W\d_])+)*")
_HAN_NUMERAL = "零〇一二两三四五六七八九十百千万亿"
_HAN_NUMBER = re.compile(f"[{_HAN_NUMERAL}]+")
_NOT_NUMBERS = re.compile("一下|一些|一起|一定|一样|一般|一直|万一|唯一|统一|第一时间|千万别")
_A_NOT_A = re.compile(f"([{_HAN}])[不没]\\1")
_QUOTED = re.compile('[《“「『"]([^《》“”「」『』"]{1,60})[》”」』"]')
_SURNAMES = frozenset(
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾萧田董袁潘蒋蔡余杜叶程苏魏吕丁"
    "任沈姚卢姜崔钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严"
)
_NEGATIONS = {
    "not",
    "no",
    "never",
    "none",
    "nobody",
    "nothing",
    "nowhere",
    "neither",
    "nor",
    "without",
    "cannot",
    "hardly",
    "except",
    "unless",
}
_HAN_NEGATIONS = frozenset("不没无非别未勿莫否")
_NUMBER_WORDS = {
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
    "eleven": "11",
    "twelve": "12",
    "thirteen": "13",
    "fourteen": "14",
    "fifteen": "15",
    "sixteen": "16",
    "seventeen": "17",
    "eighteen": "18",
    "nineteen": "19",
    "twenty": "20",
    "thirty": "30",
    "forty": "40",
    "fifty": "50",
    "sixty": "60",
    "seventy": "70",
    "eighty": "80",
    "ninety": "90",
    "hundred": "100",
    "thousand": "1000",
    "million": "1000000",
    "billion": "1000000000",
    "first": "1st",
    "second": "2nd",
    "third": "3rd",
    "half": "1/2",
}

# Words that ask politely and say nothing about what is asked.
_POLITE = re.compile(
    r"\b(?:hi|hello|hey|please|kindly|pls|plz|thanks|thank you)\b(?: (?:very much|a lot|in advance))?"
    r"|\b(?:can|could|would|will) you(?= (?:please |kindly )?(?:tell|explain|help|describe|show|give|list))"
    r"|\b(?:tell me|let me know|do you know)(?=:? (?:who|what|when|where|why|which|how|if|whether)\b)"
    r"|\bi(?:'d| would)? (?:like|want|need|wish) to (?:know|ask|find out)\b"
    r"|\b(?:a|an|the)\b"
)
_POLITE_HAN = re.compile(
    "请问|请|麻烦[你您]?|谢谢[你您]?|[你您]好|我(?:想要|想|要)(?:知道|了解|咨询|问问|问)(?:一下)?"
    "|[你您]?(?:能|可以)?告诉我(?:一下)?|一下|的|[吗呢吧啊呀嘛](?=[\\s？?。！!，,]*$)"
)


@dataclass(frozen=True)
class Reading:
    """Question as the near cache compares it."""

    units: tuple[str, ...]  # content words and Han characters, in order
    negations: int
    numbers: tuple[str, ...]
    names: tuple[str, ...]  # folded, in order

    @property
    def shingles(self) -> frozenset[str]:
        """Return units, and pairs of neighbouring units."""
        pairs = (f"{a} {b}" for a, b in pairwise(self.units))
        return frozenset((*self.units, *pairs))


def normalised(text: str) -> str:
    """Return the text that an exact match compares: one Unicode form, one kind of line end, no margins."""
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    return text.strip()


@lru_cache(maxsize=4096)
def read(text: str) -> Reading | None:
    """Analyse a question. Returns None if it is too long or has too few content words."""
    if len(text) > MAX_QUESTION_CHARS:
        return None
    plain = unicodedata.normalize("NFKC", text).replace("’", "'")
    folded = _A_NOT_A.sub(r"\1", plain.casefold())
    folded = _POLITE_HAN.sub(" ", _POLITE.sub(" ", folded))
    tokens = _TOKEN.findall(folded)
    units = tuple(_stem(token) for token in tokens)
    if len(units) < LEAST_UNITS:
        return None
    return Reading(units, _negations(tokens), _numbers(folded, tokens), _names(plain))


def marks_agree(a: Reading, b: Reading) -> bool:
    """Return whether negations, numbers and names are the same, in the same order."""
    if a == b:  # also where a name is among the polite words, or both capital and in quotes
        return True
    if a.negations != b.negations or a.numbers != b.numbers:
        return False
    return (
        _names_within(a.names, b.units) and _names_within(b.names, a.units) and not _surname_differs(a.units, b.units)
    )


def likeness(a: frozenset[str], b: frozenset[str]) -> float:
    """Return the likeness of two sets of shingles, in [0, 1]: Jaccard's index, stricter for long questions.

    One other word changes about six shingles, and matters as much in a long question as in a short one. So shingles
    are counted against at most `FULL_UNION`.
    """
    union = len(a | b)
    return max(0.0, 1.0 - len(a ^ b) / min(union, FULL_UNION)) if union else 0.0


def _stem(token: str) -> str:
    """Strip the possessive and the plural's s. Any other ending may change the meaning."""
    token = token.removesuffix("'s")
    if len(token) > 3 and token.endswith("s") and not token.endswith(("ss", "us", "is")):
        return token[:-1]
    return token


def _negations(tokens: list[str]) -> int:
    return sum(token in _NEGATIONS or token.endswith("n't") or token in _HAN_NEGATIONS for token in tokens)


def _numbers(folded: str, tokens: list[str]) -> tuple[str, ...]:
    """Return all numbers, digits first, then those in words, each in its order."""
    digits = [_digits(token) for token in tokens if token[0].isdigit()]
    words = [_NUMBER_WORDS[token] for token in tokens if token in _NUMBER_WORDS]
    words += [_han_value(run) for run in _HAN_NUMBER.findall(_NOT_NUMBERS.sub(" ", folded))]
    return (*digits, *words) if digits and words else tuple(digits or words)


def _digits(token: str) -> str:
    return re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", token)


def _han_value(run: str) -> str:
    """Return the value of a Chinese numeral, or the run itself if it is no well-formed one."""
    total, section, digit = 0, 0, 0
    scale = {"十": 10, "百": 100, "千": 1000}
    for sign in run:
        if sign in scale:
            section += (digit or 1) * scale[sign]
            digit = 0
        elif sign in "万亿":
            total = (total + section + digit) * (10_000 if sign == "万" else 10**8)
            section = digit = 0
        else:
            if digit:
                return run  # digits one after the other: a year, a telephone number
            digit = "零一二三四五六七八九".find(sign.replace("〇", "零").replace("两", "二"))
    return str(total + section + digit)


def _names(plain: str) -> tuple[str, ...]:
    """Return words with capitals that no sentence's start explains, and what stands in quotes; as they come, each
    once.
    """
    quotes = [(match.start(), match.end(), match.group(1)) for match in _QUOTED.finditer(plain)]
    found = [(start, quoted) for start, _, quoted in quotes]
    for match in re.finditer(r"[^\W\d_]+(?:['-][^\W\d_]+)*", plain):
        if _is_name(match, plain) and not any(a <= match.start() < b for a, b, _ in quotes):
            found.append((match.start(), match.group()))
    return tuple(_stem(part) for _, text in sorted(found) for part in _TOKEN.findall(text.casefold()))


def _is_name(match: re.Match[str], plain: str) -> bool:
    """Return whether a word has capitals that the start of a sentence does not explain."""
    word, before = match.group(), plain[: match.start()].rstrip(" \t\n\"'“‘(").rstrip()
    starts = not before or before.endswith((".", "!", "?", "。", "！", "？", ":"))
    capital = word[0].isupper() and (not starts or not word[1:].islower())
    return (capital or any(letter.isupper() for letter in word[1:])) and word not in ("I", "I'm")


def _names_within(names: tuple[str, ...], units: tuple[str, ...]) -> bool:
    """Return whether the names occur among the units in this order (names may be written in lower case)."""
    rest = iter(units)
    return all(any(unit == name for unit in rest) for name in names if name not in ("a", "the"))


def _surname_differs(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """Return whether one of them has a possible Chinese personal name that the other lacks."""
    return bool(_persons(a) ^ _persons(b))


def _persons(units: tuple[str, ...]) -> set[str]:
    return {
        first + second
        for first, second in pairwise(units)
        if first in _SURNAMES and len(second) == 1 and "\u3400" <= second <= "\u9fff"
    }
