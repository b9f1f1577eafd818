"""Sets of customers' questions about a page, and what became of them: found, answered, refused.

A set is a page (``NAME.LANGUAGE.md``, each section a passage) and questions (``NAME.LANGUAGE.jsonl``: ``question``,
``answers``, of which any counts, none for "not in the documents", and ``passage``, the section that answers). The
folder may also be that of ``shop-questions`` as published: one ``questions.jsonl`` for pages in several languages.
"""

from __future__ import annotations

import json
import re
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from miaotui.apps.answering import Answer, Mode
from miaotui.apps.qa_pipeline import QaPipeline, Question, Searchable
from miaotui.llm import LLM
from miaotui.retrieval import Document, Index
from miaotui.retrieval.meaning.bilingual import MeaningVectors
from miaotui.retrieval.meaning.hybrid import HybridIndex
from miaotui.retrieval.meaning.protocols import Reranker, TextEmbedder


@dataclass(frozen=True)
class CustomerQuestion:
    """A question and the answers that count; ``passage`` is the heading of the section that answers it."""

    text: str
    answers: tuple[str, ...]
    passage: str

    @property
    def is_answerable(self) -> bool:
        return bool(self.answers)


@dataclass(frozen=True)
class QuestionSet:
    """A page and its questions."""

    name: str
    page: str
    questions: tuple[CustomerQuestion, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a question: the section found first, and the answer."""

    question: CustomerQuestion
    first: str
    answer: Answer
    took_ms: float
    cpu_ms: float  # of all threads; with one thread the time that a core needs, however busy the machine is

    @property
    def is_first(self) -> bool:
        return self.question.is_answerable and self.first == self.question.passage

    @property
    def is_refused(self) -> bool:
        return not self.answer.found

    @property
    def is_right(self) -> bool:
        """Whether the answer holds one that counts, or says rightly that there is none."""
        if not self.question.is_answerable:
            return self.is_refused
        return not self.is_refused and any(holds(self.answer.text, one) for one in self.question.answers)


def read_sets(folder: Path) -> list[QuestionSet]:
    """The sets in a folder, in order of their names."""
    together = folder / "questions.jsonl"
    if together.exists():
        rows = [json.loads(line) for line in together.read_text(encoding="utf-8").splitlines()]
        pages = {path.name.split(".")[1]: path for path in sorted(folder.glob("*.*.md"))}
        return [
            _set(pages[language], [row for row in rows if row["lang"] == language])
            for language in sorted({row["lang"] for row in rows})
        ]
    sets = []
    for path in sorted(folder.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        sets.append(_set(path.with_suffix(".md"), rows))
    return sets


def _set(page: Path, rows: Sequence[dict[str, object]]) -> QuestionSet:
    text = page.read_text(encoding="utf-8")
    questions = []
    for row in rows:
        answers = tuple(map(str, row["answers"])) if isinstance(row["answers"], list) else ()
        passage = str(row.get("passage") or _section_with(text, answers))
        questions.append(CustomerQuestion(str(row["question"]), answers, passage if answers else ""))
    return QuestionSet(page.stem, text, tuple(questions))


def sections(page: str) -> list[tuple[str, str]]:
    """(heading, text) of each section."""
    parts = re.split(r"(?m)^# (.*)\n", page)
    return [(heading.strip(), text.strip()) for heading, text in zip(parts[1::2], parts[2::2], strict=True)]


def _section_with(page: str, answers: Sequence[str]) -> str:
    """The heading of the section that has most of the answers' texts."""
    counts = {heading: sum(holds(text, one) for one in answers) for heading, text in sections(page)}
    return max(counts, key=lambda heading: counts[heading]) if any(counts.values()) else ""


def holds(text: str, answer: str) -> bool:
    """Whether ``answer`` stands in ``text``, as words of their own where it begins and ends with letters or digits."""
    text, answer = (unicodedata.normalize("NFKC", each).casefold() for each in (text, answer))
    if not answer.isascii():
        return answer in text
    before = r"(?<![a-z0-9.])" if answer[0].isalnum() else ""
    after = r"(?![a-z0-9]|\.\d)" if answer[-1].isalnum() else ""
    return re.search(f"{before}{re.escape(answer)}{after}", text) is not None


@contextmanager
def opened(
    question_set: QuestionSet, embedder: TextEmbedder | None, english: TextEmbedder | None = None
) -> Iterator[Searchable]:
    """An index of the set's page; with an embedder by meaning too, with ``english`` in the space of English."""
    with TemporaryDirectory() as folder, Index.create(Path(folder) / "index") as index:
        index.add([Document(question_set.name, question_set.page)])
        if embedder is None:
            yield index
        else:
            vectors = MeaningVectors(index, embedder, english)
            vectors.update()
            yield HybridIndex(vectors)


def ask_all(
    question_set: QuestionSet,
    embedder: TextEmbedder | None = None,
    reranker: Reranker | None = None,
    llm: LLM | None = None,
    english: TextEmbedder | None = None,
    deadline_ms: float = 20_000.0,
) -> list[Outcome]:
    """Ask every question of a set, cut out of the passages or, with ``llm``, written by it."""
    outcomes = []
    with opened(question_set, embedder, english) as index:
        pipeline = QaPipeline(index, llm, reranker=reranker)
        for one in question_set.questions:
            mode: Mode = "extractive" if llm is None else "generated"
            question = Question(one.text, question_set.name, mode, deadline_ms)
            started, cpu_s = time.perf_counter(), time.process_time()
            *_, answer = pipeline.ask(question)
            took_ms, cpu_ms = (time.perf_counter() - started) * 1e3, (time.process_time() - cpu_s) * 1e3
            assert isinstance(answer, Answer)
            evidence = pipeline.evidence(question)
            heading = evidence.passages[evidence.ranked[0].passage].title if evidence.ranked else ""
            outcomes.append(Outcome(one, heading.rpartition(" › ")[2], answer, took_ms, cpu_ms))
    return outcomes
