"""Repairs of a text towards its requirements, without a model: cuts, marks, cases, beginnings and ends.

Owns what can be repaired so, and the order. Knows no models. Invariant: a repair changes only what its requirement
asks for; what it cannot mend it leaves alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise

from miaotui.retrieval.sentences import sentences
from miaotui.tasks.generation.requirements import (
    BULLET,
    HIGHLIGHT,
    PLACEHOLDER,
    SIX_STARS,
    STARS,
    TITLE,
    WORD,
    TextRequirements,
    capitals,
    count_of,
    is_json,
    paragraphs_of,
    section_count,
)


def repaired(text: str, wanted: TextRequirements) -> str:
    """Return a text with all repairs that need no model."""
    if wanted.choices:
        return text if any(choice in text for choice in wanted.choices) else wanted.choices[0]
    text = _without_words(text.strip(), wanted)
    text = _shortened(text, wanted)
    text = _in_paragraphs(text, wanted)
    text = _in_lists(text, wanted)
    text = _marked(text, wanted)
    text = _spelled(text, wanted)
    return _wrapped(text, wanted)


def _without_words(text: str, wanted: TextRequirements) -> str:
    """Leave out words that are to be avoided, and those that come too often: sentences of them, else the words."""
    for word in wanted.avoid:
        places = sentences(text)
        bad = [(start, end) for start, end in places if count_of(word, text[start:end])]
        if bad and 2 * len(bad) <= len(places):
            for start, end in reversed(bad):
                text = text[:start] + text[end:].lstrip(" ")
        text = _fewer(text, word, 0)
    for word, bound in wanted.include.items():
        text = _fewer(text, word, bound.most)
    for letter, bound in wanted.letters.items():
        words = [match for match in re.finditer(r"\S+\s*", text) if letter.casefold() in match[0].casefold()]
        left = text.casefold().count(letter.casefold()) - bound.most
        for match in reversed(words):
            if left <= 0:
                break
            left -= match[0].casefold().count(letter.casefold())
            text = text[: match.start()] + text[match.end() :]
    return text


def _fewer(text: str, word: str, most: int) -> str:
    """Return a text without the last occurrences of a word."""
    edges = (r"\b" if end.isascii() and end.isalnum() else "" for end in (word[:1], word[-1:]))
    pattern = re.compile(re.escape(word).join(edges) + r"[ ]?", re.IGNORECASE)
    for match in reversed(list(pattern.finditer(text))[most:]):
        text = text[: match.start()] + text[match.end() :]
    return text


def _shortened(text: str, wanted: TextRequirements) -> str:
    """Cut after the last sentence within the bounds, else within a sentence."""
    if wanted.sentences is not None:
        places = sentences(text)
        if len(places) > wanted.sentences.most:
            text = text[: places[max(wanted.sentences.most, 1) - 1][1]]
    if wanted.words is None or wanted.words.holds(min(len(WORD.findall(text)), wanted.words.most)):
        most = 1 << 30 if wanted.words is None else wanted.words.most - _spare(wanted)
        found = list(WORD.finditer(text))
        if len(found) > most > 0:
            end = found[most - 1].end()
            whole = [stop for _, stop in sentences(text) if stop <= end]
            text = text[: whole[-1]] if whole and 2 * whole[-1] > end else text[:end] + "."
    return text


def _spare(wanted: TextRequirements) -> int:
    """Return how many words the other repairs may add."""
    added = WORD.findall(" ".join((wanted.end, wanted.postscript, wanted.begin)))
    return len(added) + 3 * bool(wanted.postscript) + 2 * wanted.placeholders + 4 * wanted.title


def _in_paragraphs(text: str, wanted: TextRequirements) -> str:
    if wanted.paragraphs is None:
        return text
    parts = paragraphs_of(text, wanted.separator)
    if len(parts) != wanted.paragraphs:
        parts = _regrouped(text.replace(STARS, " "), wanted.paragraphs)
    for number, word in wanted.first_words.items():
        if number <= len(parts) and not parts[number - 1].casefold().startswith(word.casefold()):
            parts[number - 1] = f"{word.capitalize()} {parts[number - 1][:1].lower()}{parts[number - 1][1:]}"
    return (f"\n\n{STARS}\n\n" if wanted.separator == STARS else "\n\n").join(parts)


def _regrouped(text: str, count: int) -> list[str]:
    """Return a text as so many parts, of whole sentences where there are enough."""
    parts = [text[start:end] for start, end in sentences(text)]
    if len(parts) < count:
        parts = text.split()
    if len(parts) < count:
        return [text]
    cuts = [round(number * len(parts) / count) for number in range(count + 1)]
    return [" ".join(parts[start:end]) for start, end in pairwise(cuts)]


def _in_lists(text: str, wanted: TextRequirements) -> str:
    """Give a text so many bullets, and so many sections with headings."""
    if wanted.bullets is not None:
        found = [match[0].strip() for match in BULLET.finditer(text)]
        if len(found) > wanted.bullets:
            text = _without_lines(text, found[wanted.bullets :])
        elif len(found) < wanted.bullets:
            plain = BULLET.sub("", text).strip() or text
            need = wanted.bullets - len(found)
            added = _regrouped(re.sub(r"^\s*[-*]+\s*", "", plain, flags=re.MULTILINE), need)
            text = "\n".join([*found, *(f"* {' '.join(part.split())}" for part in added)])
    if wanted.sections is not None:
        word, count = wanted.sections
        if section_count(word, text) < count:
            bare = re.sub(rf"{re.escape(word)}\s?\d+\s?", "", text)
            parts = _regrouped(bare, count)
            text = "\n\n".join(f"{word} {number}\n{part}" for number, part in enumerate(parts, 1))
    return text


def _without_lines(text: str, lines: Sequence[str]) -> str:
    left = list(lines)
    kept = []
    for line in reversed(text.split("\n")):
        if line.strip() in left:
            left.remove(line.strip())
        else:
            kept.append(line)
    return "\n".join(reversed(kept))


def _marked(text: str, wanted: TextRequirements) -> str:
    """Mark parts as highlighted, and add placeholders that are missing."""
    missing = wanted.highlights - len(HIGHLIGHT.findall(text))
    if missing > 0:
        words = [match for match in re.finditer(r"[^\W\d_]{4,}", text) if not _is_marked(text, match)]
        step = max(len(words) // missing, 1)
        for match in reversed(words[::step][:missing]):
            text = f"{text[: match.start()]}*{match[0]}*{text[match.end() :]}"
    missing = wanted.placeholders - len(PLACEHOLDER.findall(text))
    names = ("name", "date", "address", "phone", "email", "place", "time", "title")
    if missing > 0:
        added = [
            f"[{names[n % len(names)]}{'' if n < len(names) else f' {n // len(names) + 1}'}]" for n in range(missing)
        ]
        text += "\n\n" + " ".join(added)
    return text


def _is_marked(text: str, match: re.Match[str]) -> bool:
    before, after = text[max(match.start() - 1, 0) : match.start()], text[match.end() : match.end() + 1]
    line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
    return "*" in (before, after) or line.count("*") % 2 == 1 or bool({before, after} & set("[]<>#"))


def _spelled(text: str, wanted: TextRequirements) -> str:
    """Put letters into the case that is asked for, and take commas out."""
    if wanted.without_commas:
        text = re.sub(r"(?<=\d)[,，](?=\d)", "", text)
        text = re.sub(r"\s*[,，]", "", text)
    bound = wanted.capital_words
    if bound is not None and wanted.case is None:
        missing = bound.least - len(capitals(text))
        for match in reversed(
            [each for each in re.finditer(r"[^\W\d_]{4,}", text) if not each[0].isupper()][: max(missing, 0)]
        ):
            text = text[: match.start()] + match[0].upper() + text[match.end() :]
        extra = len(capitals(text)) - bound.most
        for word in capitals(text)[::-1][: max(extra, 0)]:
            place = text.rindex(word)
            text = text[:place] + word.lower() + text[place + len(word) :]
    return text


def _wrapped(text: str, wanted: TextRequirements) -> str:
    """Add title, beginning, postscript and end; then the case, quotes or JSON around all of it."""
    if wanted.title and not any(found.strip("<> ") for found in TITLE.findall(text)):
        first = re.split(r"[.!?:\n]", re.sub(r"[*#<>\[\]]", "", text).strip())[0]
        text = f"<<{' '.join(first.split()[:6]) or 'Title'}>>\n\n{text}"
    if wanted.begin and not text.casefold().startswith(wanted.begin.strip().casefold()):
        text = f"{wanted.begin.strip()}\n\n{text}"
    if wanted.postscript and wanted.postscript.casefold() not in text.casefold():
        text = f"{text}\n\n{wanted.postscript} Thank you for reading."
    if wanted.end and not text.strip().strip('"').casefold().endswith(wanted.end.strip().casefold()):
        text = f"{text.rstrip()}\n\n{wanted.end.strip()}"
    if wanted.case is not None:
        text = text.lower() if wanted.case == "lower" else text.upper()
    if wanted.without_commas:
        text = text.replace(",", "").replace("，", "")
    if wanted.as_json and not is_json(text):
        text = json.dumps({"answer": text}, ensure_ascii=False)
    if wanted.quoted and not (len(text) > 1 and text[0] == '"' == text[-1]):
        text = f'"{text}"'
    return text


def two_answers(first: str, second: str) -> str:
    """Return two answers as one text."""
    clean = (part.replace(SIX_STARS, "").strip() for part in (first, second))
    return f"\n\n{SIX_STARS}\n\n".join(clean)
