"""Text to terms: one function for documents and queries alike.

Owns segmentation (Chinese by jieba's dictionary and model, other scripts at word boundaries), stemming (Snowball) and
stop words. Knows nothing of fields or scores. Invariant: a text gives equal terms whether it is indexed or asked for,
because script alone, never a guess at the language, decides how a run of characters is analysed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from miaotui.errors import RequestError
from miaotui.libraries import need

STEMMERS = (
    *("arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian"),
    *("italian", "norwegian", "portuguese", "romanian", "russian", "spanish", "swedish", "tamil"),
    "turkish",
)
_WITH_STOP_WORDS = frozenset(STEMMERS) - {"arabic", "greek", "romanian", "tamil", "turkish"}
MAX_TERM_CHARS = 64

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HAN_RUN = re.compile(f"[{HAN}]+")
_PIECE = re.compile(f"[{HAN}]+|[^{HAN}]+")
_WORD = re.compile(rf"[{HAN}]+|(?:(?![{HAN}])[^\W_])+")

_RARE = re.compile("[^\u4e00-\u9fff]")  # characters no dictionary has words of stand alone

Split = Callable[[str], list[str]]


def has_chinese(text: str) -> bool:
    """Return whether there is a Chinese character in ``text``."""
    return not text.isascii() and _HAN_RUN.search(text) is not None


@dataclass(frozen=True)
class Analyzer:
    """Text analysis of an index. ``language`` is the one of its words in alphabetic scripts.

    Raises `RequestError` for a language without a stemmer.
    """

    language: str = "english"

    def __post_init__(self) -> None:
        if self.language not in STEMMERS:
            raise RequestError(
                f"no stemmer for {self.language!r}. Languages: {', '.join(STEMMERS)} (Chinese is always read)"
            )

    def __reduce__(self) -> tuple[type[Analyzer], tuple[str]]:
        """Pickle the settings alone; a copy loads its own libraries."""
        return Analyzer, (self.language,)

    def terms(self, text: str) -> list[str]:
        """Return the terms that rank: stems without stop words, Chinese words, in order."""
        return self._split(text, self._stems, _chinese_terms)

    def words(self, text: str) -> list[str]:
        """Return every word as it stands, lower case; Chinese by character, so that a Chinese phrase is found however
        its neighbours are segmented.
        """
        return self._split(text, self._plain, list)

    def spans(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Return (start, end, term) of each word of ``text`` that ranks; offsets in characters."""
        for match in _WORD.finditer(text):
            run, start = match[0], match.start()
            if _HAN_RUN.match(run):
                for word, first, last in _jieba().tokenize(run, "search"):
                    if _RARE.search(word):
                        yield from ((start + n, start + n + 1, run[n]) for n in range(first, last))
                    else:
                        yield start + first, start + last, word
            else:
                for term in self._stem_of(run):
                    yield start, match.end(), term

    @staticmethod
    def _split(text: str, other: Split, chinese: Split) -> list[str]:
        text = unicodedata.normalize("NFKC", text) if not text.isascii() else text
        if text.isascii() or not _HAN_RUN.search(text):
            return other(text)
        terms: list[str] = []
        for match in _PIECE.finditer(text):
            piece = match[0]
            terms += (chinese if _HAN_RUN.match(piece) else other)(piece)
        return terms

    def _stem_of(self, word: str) -> list[str]:
        return _stem_of(self, word)

    @cached_property
    def _stems(self) -> Split:
        tantivy = need("tantivy")
        filters = tantivy.Filter
        steps = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        steps = steps.filter(filters.remove_long(MAX_TERM_CHARS)).filter(filters.lowercase())
        if self.language in _WITH_STOP_WORDS:
            steps = steps.filter(filters.stopword(self.language))
        if self.language == "english":
            steps = steps.filter(filters.ascii_fold())
        analyze: Split = steps.filter(filters.stemmer(self.language)).build().analyze
        return analyze

    @cached_property
    def _plain(self) -> Split:
        tantivy = need("tantivy")
        steps = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        steps = steps.filter(tantivy.Filter.remove_long(MAX_TERM_CHARS))
        steps = steps.filter(tantivy.Filter.lowercase())
        if self.language == "english":
            steps = steps.filter(tantivy.Filter.ascii_fold())
        analyze: Split = steps.build().analyze
        return analyze


@lru_cache(maxsize=16_384)
def _stem_of(analyzer: Analyzer, word: str) -> list[str]:
    return analyzer.terms(word)


def _chinese_terms(run: str) -> list[str]:
    stop = _chinese_stop_words()
    terms: list[str] = []
    for word in _jieba().cut_for_search(run):
        if _RARE.search(word):
            terms += word
        elif word not in stop:
            terms.append(word)
    return terms


@lru_cache(maxsize=1)
def _jieba() -> Any:
    return need("rjieba")


@lru_cache(maxsize=1)
def _chinese_stop_words() -> frozenset[str]:
    return frozenset(need("stopwordsiso").stopwords("zh"))
