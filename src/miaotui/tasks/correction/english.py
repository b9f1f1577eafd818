"""Candidates of correction for English: misspelt words, words that are taken for each other, and their forms.

Owns the lists of such words. A word is known if it is one token of the model's vocabulary, which holds the common words
by frequency; spellings are searched as in Norvig, "How to Write a Spelling Corrector" (2007). Invariant: a candidate
keeps the case of the word that it replaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_lowercase

from miaotui.tasks.correction.candidates import EditCandidate
from miaotui.text.tokenizers.tokenizer import Tokenizer

WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*")
# Nats. By the first set of benchmarks, which is tuned on: a nat above what leaves at most one right sentence changed.
MISSPELT, RARE, DOUBLED, ADDED, NAMED, CASE = 4.0, 7.0, 1.5, 5.5, 9.0, 3.0
CONFUSED, NUMBER, FORM = 4.5, 4.5, 5.0
MOST_SPELLINGS = 8  # for one word
LONG = 4  # letters: shorter words that are known have too many neighbours

CONFUSIONS = """
their there they're|its it's|your you're|than then|to too two|affect effect|lose loose|a an the|is are am|was were
has have had|do does did|who whom|whose who's|much many|less fewer|accept except|advice advise|quiet quite
weather whether|passed past|principal principle|of off have|hear here|no know|new knew|right write|where were we're
buy by bye|week weak|piece peace|in on at for|good well|me I|he him|she her|they them|we us|this these|that those
don't doesn't|isn't aren't|wasn't weren't|hasn't haven't|desert dessert|stationary stationery|brake break|sea see
complement compliment|lead led|bare bear|whole hole|wait weight|threw through|meet meat|site sight|plain plane
through thorough|breath breathe|cloths clothes|choose chose|personal personnel|adapt adopt|rise raise|lie lay
since for|some any|anything something|each every|beside besides|between among|must most|by with|into in|from of
""".replace("\n", "|")
VERBS = """
be is are am was were been being|go goes went gone going|do does did done doing|have has had having
see sees saw seen seeing|take takes took taken taking|come comes came coming|give gives gave given giving
get gets got getting|make makes made making|know knows knew known|write writes wrote written writing
eat eats ate eaten eating|drive drives drove driven driving|break breaks broke broken breaking
speak speaks spoke spoken speaking|begin begins began begun beginning|run runs ran running|buy buys bought buying
think thinks thought thinking|bring brings brought bringing|teach teaches taught teaching|catch catches caught
feel feels felt feeling|leave leaves left leaving|find finds found finding|tell tells told telling|say says said saying
keep keeps kept keeping|sleep sleeps slept sleeping|sit sits sat sitting|stand stands stood standing|meet meets met
lose loses lost losing|send sends sent sending|spend spends spent spending|choose chooses chose chosen choosing
fly flies flew flown flying|grow grows grew grown growing|fall falls fell fallen falling|rise rises rose risen
sing sings sang sung singing|swim swims swam swum swimming|drink drinks drank drunk drinking|wear wears wore worn
forget forgets forgot forgotten|lie lies lay lain lying|hold holds held holding|build builds built building
pay pays paid paying|put puts putting|read reads reading|win wins won winning|steal steals stole stolen
""".replace("\n", "|")
NOUNS = """
child children|man men|woman women|foot feet|tooth teeth|mouse mice|person people|life lives|knife knives|leaf leaves
""".replace("\n", "|")


PERSONS = ({"is", "are"}, {"am", "is"}, {"am", "are"}, {"was", "were"}, {"has", "have"})


def _groups(text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for group in filter(None, (part.split() for part in text.split("|"))):
        for word in group:
            key = word.lower()
            found[key] = (*found.get(key, ()), *(other for other in group if other != word))
    return found


_CONFUSED, _FORMS = _groups(CONFUSIONS), _groups(f"{VERBS}|{NOUNS}")


def known_words(tokenizer: Tokenizer, vocab_size: int) -> dict[str, int]:
    """Return words that are one token with a space before them, and their ranks; common ones have low ranks."""
    found: dict[str, int] = {}
    for token in range(vocab_size):
        spelt = tokenizer.token_bytes(token)
        if spelt[:1] == b" " and len(spelt) > 1 and spelt[1:].isalpha() and spelt.isascii():
            found.setdefault(spelt[1:].decode().lower(), token)
    return found


def english_candidates(sentence: str, known: Mapping[str, int]) -> list[EditCandidate]:
    """Return what may be wrong in a sentence, with what may be right."""
    words = list(WORD.finditer(sentence))
    found: list[EditCandidate] = []
    for number, match in enumerate(words):
        start, end, word = match.start(), match.end(), match[0]
        before = words[number - 1] if number else None
        if before is not None and before[0].lower() == word.lower() and not sentence[before.end() : start].strip():
            found.append(EditCandidate(before.end(), end, "", DOUBLED))
        found += [EditCandidate(start, end, text, need) for text, need in _instead(word, known, before is None)]
        if before is not None and sentence[before.end() : start] == " " and word.islower():
            found += [EditCandidate(start, start, f"{added} ", ADDED) for added in ("the", "a", "to", "of")]
        if number and word.lower() in ("more", "most") and _compares(words[number + 1 : number + 2], known):
            found.append(EditCandidate(start - 1 if sentence[start - 1] == " " else start, end, "", ADDED))
    return list(dict.fromkeys(found))


def _instead(word: str, known: Mapping[str, int], is_first: bool) -> Iterator[tuple[str, float]]:
    """Yield texts for a word, and what each must gain."""
    plain = word.lower().replace("’", "'")
    for other in _CONFUSED.get(plain, ()):
        yield _cased(other, word), CONFUSED
    for other in dict.fromkeys((*_FORMS.get(plain, ()), *_forms(plain, known))):
        yield _cased(other, word), NUMBER if _agrees(plain, other) else FORM
    if word == "i" or (is_first and word.islower()):
        yield word.capitalize(), CASE
    if "'" in plain or len(plain) < 3:
        return
    is_known = plain in known
    if is_known and len(plain) < LONG:
        return
    need = RARE if is_known else MISSPELT
    if word[0].isupper() and not is_first:
        need = max(need, NAMED)
    near = _near(plain, known)
    if not near and not is_known and len(plain) <= 12:
        near = {further for each in _one_off(plain) for further in _near(each, known)}
    for other in sorted(near - {plain}, key=lambda each: known[each])[:MOST_SPELLINGS]:
        yield _cased(other, word), need
    joined = [(plain[:at], plain[at:]) for at in range(1, len(plain))] if not is_known else []
    for left, right in joined:
        if known.get(left, 1 << 30) < 5000 and known.get(right, 1 << 30) < 5000:
            yield _cased(f"{left} {right}", word), MISSPELT


def _compares(following: Sequence[re.Match[str]], known: Mapping[str, int]) -> bool:
    """Return whether a comparative or superlative follows: without "more" or "most" before it the sentence is whole.

    Other words are left out only where they are written twice: a shorter sentence is likelier anyway.
    """
    for match in following:
        word = match[0].lower()
        for end in ("er", "est"):
            stem = word.removesuffix(end)
            short = stem[:-1] if stem[-1:] == stem[-2:-1] else stem  # "bigger"
            if word.endswith(end) and {stem, f"{stem}e", f"{stem[:-1]}y", short} & known.keys():
                return True
        return word in ("better", "best", "worse", "worst", "less", "least")
    return False


def _agrees(word: str, other: str) -> bool:
    """Return whether two forms differ in number or person alone."""
    short, long = sorted((word, other), key=len)
    return long in (f"{short}s", f"{short}es", f"{short[:-1]}ies") or {word, other} in PERSONS


def _forms(word: str, known: Mapping[str, int]) -> Iterator[str]:
    """Yield regular forms of a word that are known: of number, person and time."""
    stems = [word]
    stems += [word.removesuffix(end) for end in ("s", "es", "ed", "d", "ing", "ly") if word.endswith(end)]
    stems += [word.removesuffix("ing") + "e"] if word.endswith("ing") else []
    stems += [word.removesuffix("ies") + "y"] if word.endswith("ies") else []
    for stem in dict.fromkeys(stems):
        made = [stem, f"{stem}s", f"{stem}es", f"{stem}ed", f"{stem}d", f"{stem}ing", f"{stem}ly"]
        made += [f"{stem[:-1]}ing"] if stem.endswith("e") else []
        made += [f"{stem[:-1]}ies", f"{stem[:-1]}ied"] if stem.endswith("y") else []
        yield from (each for each in made if each != word and len(each) > 2 and each in known)
        if stem != word:  # "mans", "goed"
            yield from _FORMS.get(stem, ())


def _one_off(word: str) -> set[str]:
    """Return all spellings that one typing error leads to: a letter left out, added, replaced, or two swapped."""
    splits = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    found = {left + right[1:] for left, right in splits if right}
    found |= {left + right[1] + right[0] + right[2:] for left, right in splits if len(right) > 1}
    found |= {left + letter + right[1:] for left, right in splits if right for letter in ascii_lowercase}
    return found | {left + letter + right for left, right in splits for letter in ascii_lowercase}


def _near(word: str, known: Mapping[str, int]) -> set[str]:
    return {each for each in _one_off(word) if each in known and len(each) > 1}


def _cased(word: str, like: str) -> str:
    """Return a word in the case of another one."""
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() and like != "I" else word
