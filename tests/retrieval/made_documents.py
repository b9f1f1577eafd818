"""Documents made up by a seed: words from a skewed vocabulary, so that some are rare."""

from __future__ import annotations

import random

from miaotui.retrieval import Document

WORDS = [f"{a}{b}{c}" for a in "bdgklmnprst" for b in "aeiou" for c in ("ral", "nik", "tov", "sem")]


def made_documents(count: int, seed: int = 1, longest: int = 60) -> list[Document]:
    """`count` documents with ids d0, d1, ...; every tenth is a copy of the one before it."""
    chance = random.Random(seed)
    made: list[Document] = []
    for number in range(count):
        if number % 10 == 9:
            made.append(Document(f"d{number}", made[-1].body, made[-1].title))
            continue
        words = [made_word(chance) for _ in range(chance.randint(3, longest))]
        title = " ".join(made_word(chance) for _ in range(chance.randint(0, 4)))
        tags = (("even", "odd")[number % 2],)
        made.append(Document(f"d{number}", " ".join(words), title, tags=tags, time_s=1_700_000_000 + number))
    return made


def made_word(chance: random.Random) -> str:
    """A word; the first of `WORDS` are the most common."""
    return WORDS[min(len(WORDS), int(chance.paretovariate(0.7))) - 1]
