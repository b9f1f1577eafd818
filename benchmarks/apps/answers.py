"""Quality of the applications' answers: "not found", intents, and the near cache's false hits.

    pip install 'miaotui[apps]'
    python -m benchmarks.apps.answers --data FOLDER        # or MIAOTUI_EVALUATION_DATA=FOLDER

FOLDER holds ``xquad`` and ``banking77`` as published. Prints a table, and one JSON line last. Short answers are
measured by ``spans.py``, on questions that no weight was fitted on; time within the applications by ``timing.py``.
Its scores are SQuAD's, exact match and F1, Chinese by character: in the Chinese texts spaces often stand around an
answer, left by their translation, and count for nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import string
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaotui.apps.evidence import FOUND, FOUND_ZH
from miaotui.apps.intents import IntentClassifier
from miaotui.apps.meaning.encoders import Encoders, find_encoders
from miaotui.apps.qa_pipeline import Question, look_up
from miaotui.retrieval import Document, Index
from miaotui.retrieval.answers.cache import AnswerCache, AnswerKey, CacheOptions
from miaotui.retrieval.answers.calibrate import calibrate
from miaotui.retrieval.answers.pairs import make_pairs, sample_questions
from miaotui.retrieval.meaning.bilingual import MeaningVectors
from miaotui.retrieval.meaning.hybrid import HybridIndex
from miaotui.types import SamplingParams

Cut = Callable[[str], list[str]]
Score = tuple[float, float]


@dataclass(frozen=True)
class Asked:
    """A question of XQuAD: its article's number, its paragraph, the answers that count."""

    article: int
    paragraph: str
    question: str
    answers: list[str]


def xquad(folder: Path, language: str, most: int | None = None) -> tuple[list[Asked], list[Document]]:
    """The questions and paragraphs, of the first ``most`` articles alone if that is given."""
    articles = json.loads((folder / f"xquad.{language}.json").read_text(encoding="utf-8"))["data"][:most]
    asked, documents = [], []
    for number, article in enumerate(articles):
        for place, paragraph in enumerate(article["paragraphs"]):
            text = paragraph["context"]
            documents.append(Document(f"{number}-{place}", text, article["title"]))
            for one in paragraph["qas"]:
                answers = [answer["text"] for answer in one["answers"]]
                asked.append(Asked(number, text, one["question"], answers))
    return asked, documents


def cut_english(text: str) -> list[str]:
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def cut_chinese(text: str) -> list[str]:
    return [letter for letter in text.lower() if letter.isalnum()]


def score(answer: str, right: Sequence[str], cut: Cut) -> Score:
    """(exact match, F1), the best over the right answers."""
    return max(float(cut(answer) == cut(one)) for one in right), max(f1(cut(answer), cut(one)) for one in right)


def f1(a: list[str], b: list[str]) -> float:
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if common else 0.0


def not_found(folder: Path, language: str) -> Iterator[tuple[str, str]]:
    """How many questions with an answer are answered, and how many without one are not."""
    asked, documents = xquad(folder, language)
    with tempfile.TemporaryDirectory() as place:
        whole, half = Index.create(Path(place) / "whole"), Index.create(Path(place) / "half")
        whole.add(documents)
        half.add(one for one in documents if int(one.id.split("-")[0]) % 2 == 0)
        known = [look_up(whole, Question(one.question, "x")).strength for one in asked]
        odd = [one for one in asked if one.article % 2]
        unknown = [look_up(half, Question(one.question, "x")).strength for one in odd]
        whole.close()
        half.close()
    for threshold in sorted({0.2, FOUND_ZH, FOUND, 0.35, 0.4}):
        kept = sum(strength >= threshold for strength in known) / len(known)
        refused = sum(strength < threshold for strength in unknown) / len(unknown)
        label = f"XQuAD-{language}: answered if known, refused if not, at strength {threshold}"
        yield label, f"{100 * kept:5.1f} {100 * refused:5.1f}"


def decided(folder: Path, language: str, encoders: Encoders, every: int, most: int | None) -> Iterator[tuple[str, str]]:
    """As `not_found`, by meaning and at the threshold of the application, for every ``every``-th question."""
    asked, documents = xquad(folder, language, most)
    chosen = asked[::every]
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        shares: dict[tuple[str, str], list[bool]] = {}
        halves = {
            "known": (documents, chosen),
            "unknown": (
                [one for one in documents if int(one.id.split("-")[0]) % 2 == 0],
                [one for one in chosen if one.article % 2],
            ),
        }
        for name, (some, questions) in halves.items():
            index = stack.enter_context(Index.create(Path(place) / name))
            index.add(some)
            vectors = MeaningVectors(index, encoders.embedder, encoders.english)
            vectors.update()
            hybrid = HybridIndex(vectors)
            for one in questions:
                for reranker in dict.fromkeys((None, encoders.reranker if language == "en" else None)):
                    weak = look_up(hybrid, Question(one.question, "x"), reranker).is_weak
                    how = "meaning" if reranker is None else "meaning and cross-encoder"
                    shares.setdefault((how, name), []).append(weak if name == "unknown" else not weak)
    for how in dict.fromkeys(how for how, _ in shares):
        label = f"XQuAD-{language}, by {how}: answered if known, refused if not, {len(chosen)} questions"
        yield label, f"{share(shares[how, 'known'])} {share(shares[how, 'unknown'])}"


def rows_of(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def intents(folder: Path) -> Iterator[tuple[str, str]]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    train, test = rows_of(folder / "train.csv"), rows_of(folder / "test.csv")
    examples: dict[str, list[str]] = {}
    for text, name in train:
        examples.setdefault(name, []).append(text)
    texts, names = [text for text, _ in test], [name for _, name in test]
    most = max(examples, key=lambda name: len(examples[name]))
    yield "Banking77: the most frequent intent", share(name == most for name in names)
    vectors = TfidfVectorizer().fit([text for text, _ in train])
    model = LogisticRegression(max_iter=300)
    model.fit(vectors.transform([text for text, _ in train]), [name for _, name in train])
    plain = model.predict(vectors.transform(texts))
    yield "Banking77: TF-IDF, logistic regression", share(map(str.__eq__, plain, names))
    found = IntentClassifier(examples).classify_all(texts)
    right = [intent.name == name for intent, name in zip(found, names, strict=True)]
    yield "Banking77: ours", share(right)
    sure = [ok for ok, intent in zip(right, found, strict=True) if intent.confidence >= 0.5]
    yield f"Banking77: ours, the {len(sure)} of {len(right)} with confidence 0.5", share(sure)


def near(folder: Path) -> Iterator[tuple[str, str]]:
    """The rule from made pairs, put to questions of customers: a hit of another intent is false."""
    outcome = calibrate(make_pairs(sample_questions()))
    yield f"near answers, made pairs: {outcome.reason}", f"{100 * outcome.found:5.1f}"
    cache = AnswerCache(CacheOptions(near=outcome.rule))
    for text, name in rows_of(folder / "train.csv"):
        cache.keep(_asking(text), name.encode())
    hits = [(cache.find(_asking(text)), name) for text, name in rows_of(folder / "test.csv")]
    found = [(hit, name) for hit, name in hits if hit is not None and hit.how == "near"]
    false = sum(hit.payload.decode() != name for hit, name in found)
    yield "near answers, Banking77: near hits, false ones", f"{len(found):5d} {false:5d}"
    cache.close()


def _asking(text: str) -> AnswerKey:
    return AnswerKey("m", "t", "", SamplingParams(), [{"role": "user", "content": text}])


def share(right: Any) -> str:
    each = list(right)
    return f"{100 * sum(each) / max(1, len(each)):5.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = os.environ.get("MIAOTUI_EVALUATION_DATA")
    parser.add_argument("--data", type=Path, default=default and Path(default))
    parser.add_argument(
        "--articles", type=int, metavar="N", help="with --meaning: the first N articles alone (default: all)"
    )
    parser.add_argument(
        "--meaning", type=int, metavar="N", help="only the decision by meaning, for every N-th question"
    )
    parsed = parser.parse_args()
    data = parsed.data
    if data is None:
        print("say where the data is: --data FOLDER", file=sys.stderr)
        return 2
    result: dict[str, str] = {}
    encoders = find_encoders() if parsed.meaning else None
    if encoders is not None:
        parts = [
            decided(data / "xquad", language, encoders, parsed.meaning, parsed.articles) for language in ("zh", "en")
        ]
    else:
        parts = every_part(data)
    for part in parts:
        for label, value in part:
            print(f"{label:78} {value}", flush=True)
            result[label] = value
    print(json.dumps(result, ensure_ascii=False))
    return 0


def every_part(data: Path) -> list[Iterator[tuple[str, str]]]:
    parts = [not_found(data / "xquad", "en"), not_found(data / "xquad", "zh")]
    return [*parts, intents(data / "banking77"), near(data / "banking77")]


if __name__ == "__main__":
    raise SystemExit(main())
