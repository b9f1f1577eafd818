"""Frequently asked questions: reading them, and finding the matching one.

Owns the file's forms (CSV, JSON lines, YAML) and the match by TF-IDF over words and character n-grams. Knows no
conversation. Invariant: an entry is returned only above a threshold that other entries' questions do not reach,
except for one in twenty (`Faq.threshold`). Needs scikit-learn (extra ``apps``).
"""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from miaotui.apps.segmentation import HAN
from miaotui.apps.untrusted_yaml import read_text, read_yaml
from miaotui.errors import RequestError
from miaotui.libraries import need
from miaotui.retrieval.ingest.tables import delimiter_of, rows_of

MAX_FILE_BYTES = 16 << 20
MAX_ENTRIES = 20_000
MAX_CHARS = 8_000
WRONG_SHARE = 0.05  # of other entries' questions that may reach the threshold
LEAST_THRESHOLD, MOST_THRESHOLD = 0.35, 0.9
MOST_CALIBRATED = 2_048  # questions that the threshold is found with
MARGIN = 0.03  # by which the best entry must lead
_LITTLE = {
    "a",
    "an",
    "the",
    "i",
    "you",
    "we",
    "it",
    "my",
    "your",
    "our",
    "is",
    "are",
    "do",
    "does",
    "can",
    "could",
    "will",
    "would",
    "to",
    "of",
    "in",
    "on",
    "for",
    "me",
    "s",
    "please",
    "hi",
    "hello",
}
_LITTLE_HAN = re.compile("请问|怎么样?|什么|哪里|可以|一下|[我你您的了吗呢吧啊想要是]")
_PIECE = re.compile(rf"[{HAN}]+|(?:(?![{HAN}])\w)+")


@dataclass(frozen=True)
class FaqEntry:
    """Answer and the questions that ask for it."""

    questions: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Match:
    """Matching entry; ``score`` in [0, 1] is the cosine of its nearest question."""

    entry: FaqEntry
    question: str
    score: float


def read_faq(path: Path) -> list[FaqEntry]:
    """Return the entries of a ``.csv`` (question, answer), ``.jsonl`` or ``.yaml`` file.

    Raises `RequestError`, naming the entry that is wrong.
    """
    suffix = path.suffix.lower()
    text = read_text(path, MAX_FILE_BYTES, any_encoding=suffix == ".csv")
    if suffix == ".csv":
        rows: list[Any] = list(rows_of(io.StringIO(text), delimiter_of(text)))
    elif suffix in (".jsonl", ".ndjson"):
        rows = [_json(path, n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    elif suffix in (".yaml", ".yml"):
        rows = read_yaml(path, MAX_FILE_BYTES)
    else:
        raise RequestError(f"{path}: a list of questions must be .csv, .jsonl or .yaml")
    if not isinstance(rows, list) or not 0 < len(rows) <= MAX_ENTRIES:
        raise RequestError(f"{path}: expected a list of 1 to {MAX_ENTRIES:,} entries")
    return [_entry(path, number, row) for number, row in enumerate(rows, 1)]


def _json(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path}, line {number}: not JSON ({error})") from None


def _entry(path: Path, number: int, row: Any) -> FaqEntry:
    row = row if isinstance(row, dict) else {}
    questions = row.get("questions", row.get("question"))
    asked = _texts([questions] if isinstance(questions, str) else questions)
    answer = _texts([row.get("answer")])
    if not asked or not answer:
        raise RequestError(
            f"{path}, entry {number}: expected a question (or questions) and an answer, as texts "
            f"of at most {MAX_CHARS:,} characters"
        )
    return FaqEntry(asked, answer[0])


def _texts(values: object) -> tuple[str, ...]:
    """Return the texts without their margins, or none if any of them is invalid."""
    if not isinstance(values, list):
        return ()
    texts = [value.strip() for value in values if isinstance(value, str)]
    fit = len(texts) == len(values) and all(0 < len(text) <= MAX_CHARS for text in texts)
    return tuple(texts) if fit else ()


class Faq:
    """Entries with their index. Safe to use from several threads."""

    def __init__(self, entries: Sequence[FaqEntry]) -> None:
        if not entries:
            raise RequestError("there is no question to answer: give at least one entry")
        self.entries = tuple(entries)
        self._owner = np.array([n for n, entry in enumerate(entries) for _ in entry.questions])
        self._questions = [question for entry in entries for question in entry.questions]
        text = need("sklearn.feature_extraction.text")
        self._vectors = text.TfidfVectorizer(analyzer=features, sublinear_tf=True)
        self._matrix = self._vectors.fit_transform(self._questions)
        self._most_idf = float(self._vectors.idf_.max())
        self.threshold = self._calibrated()

    def match(self, question: str) -> Match | None:
        """Return the matching entry. None: none is near enough, or two are equally near."""
        known = (self._matrix @ self._vectors.transform([question]).T).toarray().ravel()
        scores = known * self._known_share(question)
        best = int(scores.argmax())
        score, owner = float(scores[best]), int(self._owner[best])
        others = scores[self._owner != owner]
        lead = score - float(others.max()) if len(others) else score
        if score < self.threshold or lead < MARGIN:
            return None
        return Match(self.entries[owner], self._questions[best], min(score, 1.0))

    def _known_share(self, question: str) -> float:
        """Return the factor by which unknown words of the question lower all similarities.

        A vector over known features alone would ignore the unknown ones.
        """
        known = unknown = 0.0
        for feature, count in Counter(features(question)).items():
            place = self._vectors.vocabulary_.get(feature)
            idf = self._most_idf if place is None else float(self._vectors.idf_[place])
            weight = ((1 + math.log(count)) * idf) ** 2
            known, unknown = (known + weight * (place is not None), unknown + weight * (place is None))
        return math.sqrt(known / (known + unknown)) if known else 0.0

    def _calibrated(self) -> float:
        """Return the similarity to another entry that one in twenty questions exceeds."""
        nearest: list[float] = []
        for row in range(0, min(len(self._questions), MOST_CALIBRATED), 256):
            scores = (self._matrix[row : row + 256] @ self._matrix.T).toarray()
            own = self._owner[row : row + 256, None] == self._owner[None, :]
            nearest += np.where(own, 0.0, scores).max(axis=1).tolist()
        reached = float(np.quantile(nearest, 1 - WRONG_SHARE))
        return min(max(reached, LEAST_THRESHOLD), MOST_THRESHOLD)


def features(text: str) -> Iterator[str]:
    """Return words, and the n-grams of their characters: 3 and 4 letters, 1 and 2 Chinese characters."""
    folded = _LITTLE_HAN.sub(" ", text[:MAX_CHARS].casefold())
    for match in _PIECE.finditer(folded):
        piece = match.group()
        if piece in _LITTLE:
            continue
        yield piece
        if "\u3400" <= piece[0] <= "\ufaff":
            yield from piece
            yield from (piece[i : i + 2] for i in range(len(piece) - 1))
        else:
            marked = f"<{piece}>"
            for size in (3, 4):
                yield from (marked[i : i + size] for i in range(len(marked) - size + 1))
