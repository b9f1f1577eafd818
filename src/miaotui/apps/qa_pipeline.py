"""The pipeline of question answering: an index, optionally a model and a cache, put together.

Owns the order: graph, cache, search, then a span or a written answer, within a deadline. Knows neither HTTP
nor the command line. Invariant: a model that cannot answer in time is no error: the best span is
given instead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from miaotui.apps.answering import (
    ANSWER_TOKENS,
    EXTRACTIVE_MS,
    GENERATED_MS,
    Answer,
    Citation,
    Mode,
    checked_question,
    compose,
    extract,
    is_selectable,
    list_of,
    not_found,
)
from miaotui.apps.evidence import MAX_PASSAGES, Evidence, Passage, Searched, gather
from miaotui.apps.question_types import AnswerForm, form_of, names_answer
from miaotui.apps.spans.phrase_scores import PhraseReader
from miaotui.apps.spans.selection import READ_TOKENS, select
from miaotui.errors import OverloadedError, RefusedError
from miaotui.llm import LLM
from miaotui.retrieval.answers.cache import AnswerCache, AnswerKey
from miaotui.retrieval.document import Results
from miaotui.retrieval.graph import GraphReader
from miaotui.retrieval.meaning.hybrid import HybridIndex
from miaotui.retrieval.meaning.protocols import Reranker
from miaotui.types import Deadline, SamplingParams

GRAPH_SURE = 0.5  # probability of a reading from which the graph answers instead of the documents
RERANK_SHARE, EXTRACTIVE_RERANK_SHARE = 0.2, 0.7  # of the time, at most, for the reranker
TICK_S = 0.02  # between looks at the clock while no piece comes


class Searchable(Protocol):
    """Index, as far as a pipeline uses it."""

    @property
    def version(self) -> str:
        """Return the name of the state that searches see."""

    def search(self, query: str, limit: int = 10, *, offset: int = 0, plain: bool = False) -> Results:
        """Return the best passages."""


class Writing(Protocol):
    """Answer in progress: what the model reads, the form and length of its text, and what is made of that."""

    messages: list[dict[str, str]]
    max_tokens: int
    least_tokens: int

    @property
    def excerpts(self) -> Sequence[str]:
        """Return the passages' parts that the model reads."""

    @property
    def structured(self) -> Mapping[str, Any] | None:
        """Return the form that the text is bound to, if any."""

    def push(self, piece: str) -> str:
        """Add a piece of the model's text. Returns the text that can be shown now."""

    def end(self, shortened: bool = False) -> tuple[str, Answer]:
        """Return (the rest to show, the whole answer)."""


@dataclass(frozen=True)
class Question:
    """Question, its index, and the mode of the answer; ``namespace`` tells callers apart."""

    text: str
    index: str
    mode: Mode = "extractive"
    deadline_ms: float | None = None
    namespace: str = ""
    namespace_number: int = 0  # the engine's name of the same
    max_tokens: int = ANSWER_TOKENS

    @property
    def limit_ms(self) -> float:
        """Return the deadline, or the mode's own."""
        return self.deadline_ms or (EXTRACTIVE_MS if self.mode == "extractive" else GENERATED_MS)

    @property
    def params(self) -> SamplingParams:
        """Return the sampling parameters: greedy, so that the answer can be kept."""
        return SamplingParams(max_tokens=self.max_tokens)

    def asking(self, model: str, version: str) -> AnswerKey:
        """Return this question in the form of the answer cache."""
        return AnswerKey(
            model=model,
            template="answering-5",
            namespace=self.namespace,
            params=self.params,
            messages=[{"role": "user", "content": self.text}],
            indexes=((self.index, version),),
            extra={"mode": self.mode},
        )


def look_up(
    index: Searchable, question: Question, reranker: Reranker | None = None, within_ms: float | None = None
) -> Evidence:
    """Search the index for a question: by meaning too if it is a `HybridIndex`, and then with the reranker, if that
    takes no longer than ``within_ms``.
    """
    if isinstance(index, HybridIndex):
        found, sentences, searched, in_english = index.search_sentences(question.text, MAX_PASSAGES)
    else:
        found = index.search(question.text, MAX_PASSAGES, plain=True)
        sentences, searched, in_english = tuple(() for _ in found), 0, False
    passages = (
        Passage(hit.id, hit.body, hit.title, hit.passage.source, hit.score, matches)
        for hit, matches in zip(found, sentences, strict=True)
    )
    return gather(
        question.text,
        passages,
        question.index,
        found.version,
        complete=not found.warnings,
        reranker=reranker,
        within_ms=within_ms,
        searched=Searched(searched, in_english),
    )


@dataclass
class QaPipeline:
    """Answers questions about one index. Without ``llm`` answers are extractive only.

    ``model_key`` tells the answers of one model from those of another in ``cache``. A question that ``graph`` answers
    surely is not put to the documents; such answers are not kept.
    """

    index: Searchable
    llm: LLM | None = None
    cache: AnswerCache | None = None
    model_key: str = ""
    reranker: Reranker | None = None
    graph: GraphReader | None = None
    # One thread at a time searches and weighs: more would only take turns, and the engine's from it.
    _busy: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def find(self, question: Question) -> Answer | None:
        """Return the answer that was given before, if it still holds. Raises `RequestError`."""
        started = time.perf_counter()
        if self.cache is None:
            return None
        found = self.cache.find(self._asking(question))
        if found is None:
            return None
        took_ms = (time.perf_counter() - started) * 1e3
        return Answer.from_bytes(found.payload, found.how, took_ms)

    def evidence(self, question: Question, within_ms: float | None = None) -> Evidence:
        """Return what the documents have for a question; the reranker may take ``within_ms``."""
        with self._busy:
            return look_up(self.index, question, self.reranker, within_ms)

    def ask(self, question: Question) -> Iterator[str | Answer]:
        """Return the answer as it comes: text, then the whole `Answer`. Raises `RequestError`."""
        started = time.perf_counter()
        asking = self._asking(question)
        question = replace(question, text=checked_question(question.text))
        known = None if self.graph is None else from_graph(self.graph, question.text)
        if known is not None:
            yield from _whole(replace(known, took_ms=(time.perf_counter() - started) * 1e3))
            return
        kept = self.find(question)
        if kept is not None:
            yield from _whole(kept)
            return
        for part in self._answer(question, started):
            if not isinstance(part, Answer):
                yield part
                continue
            self._keep(asking, part)
            yield replace(part, took_ms=(time.perf_counter() - started) * 1e3)

    def _asking(self, question: Question) -> AnswerKey:
        text = checked_question(question.text)
        return replace(question, text=text).asking(self.model_key, self.index.version)

    def _keep(self, asking: AnswerKey, answer: Answer) -> None:
        """Keep an answer that is whole and from the very version that was asked."""
        same = answer.version == asking.indexes[0][1]
        if self.cache is not None and same and answer.complete and not (answer.shortened or answer.left_out):
            self.cache.keep(asking, answer.to_bytes())

    def _answer(self, question: Question, started: float) -> Iterator[str | Answer]:
        generated = question.mode == "generated" and self.llm is not None
        left_ms = question.limit_ms - (time.perf_counter() - started) * 1e3
        evidence = self.evidence(question, left_ms * (RERANK_SHARE if generated else EXTRACTIVE_RERANK_SHARE))
        if self.llm is None or not generated:
            yield from _whole(extract(evidence))
            return
        if evidence.is_weak:
            yield from _whole(not_found(evidence))
            return
        if is_selectable(evidence) and form_of(question.text) is AnswerForm.YES_OR_NO:
            yield from _whole(extract(evidence))  # the rule in its own words: a small model's yes or no is often wrong
            return
        if is_selectable(evidence) and list_of(evidence) is not None:
            yield from _whole(extract(evidence))  # in its own lines: a small model leaves items out
            return
        left_ms = question.limit_ms - (time.perf_counter() - started) * 1e3
        try:
            if left_ms <= 0:
                raise OverloadedError("the search took all of the time", 1.0)
            if is_selectable(evidence) and names_answer(question.text):
                yield from _whole(self._selected(self.llm, evidence, question, left_ms))
                return
            budget = self.llm.prompt_budget(left_ms, question.max_tokens)
            with self._busy:
                writing = compose(evidence, self._count, budget, question.max_tokens)
            yield from self._written(self.llm, writing, question, left_ms)
        except RefusedError:
            answer = extract(evidence)
            yield from _whole(replace(answer, shortened=True, left_out=(*evidence.left_out, "model")))

    def _selected(self, llm: LLM, evidence: Evidence, question: Question, left_ms: float) -> Answer:
        """Return the answer that the model's own probabilities select. Raises `RefusedError` if it is too late."""
        due_s = time.perf_counter() + left_ms / 1e3
        budget = llm.prompt_budget(left_ms, READ_TOKENS)
        with self._busy:
            selection = select(evidence, self._count, budget, llm.page_excess)
            spans = selection.spans()
        if not spans:
            return extract(selection.evidence)
        reader = PhraseReader(llm, llm.chat_tokens(selection.messages), due_s, question.namespace_number)
        return selection.answer(selection.best(reader, spans))

    def _count(self, text: str) -> int:
        return 0 if self.llm is None else len(self.llm.tokenizer.encode(text, special=False))

    @staticmethod
    def _written(llm: LLM, writing: Writing, question: Question, left_ms: float) -> Iterator[str | Answer]:
        due_s = time.perf_counter() + left_ms / 1e3
        stream = llm.chat_stream(
            writing.messages,
            replace(question.params, max_tokens=writing.max_tokens),
            deadline=Deadline(total_ms=left_ms, on_late="shorten"),
            passages=writing.excerpts,
            structured_outputs=writing.structured,
            namespace=question.namespace_number,
        )
        with stream:
            if stream.request.shortened and stream.request.ending.max_tokens < writing.least_tokens:
                raise OverloadedError("no time for a whole sentence", 1.0)
            said = cut = is_over = False
            while not is_over:
                delta = stream.next_within(TICK_S)
                if time.perf_counter() > due_s:  # the engine promised more than it could keep
                    cut = True
                    break
                shown = writing.push(delta.text)
                if shown:
                    said = True
                    yield shown
                is_over = delta.completion is not None
                if delta.finish_reason == "length":
                    cut = stream.request.shortened
        if cut and not said:
            raise OverloadedError("no time for a whole sentence", 1.0)
        rest, answer = writing.end(cut)
        if rest:
            yield rest
        yield answer


def from_graph(graph: GraphReader, text: str) -> Answer | None:
    """Return a graph's answer with its triples as citations; None where it has none or is not sure."""
    found = graph.ask(text)
    if not found.found or found.probability < GRAPH_SURE:
        return None
    triples = list(dict.fromkeys(triple for path in found.paths for triple in path))[:MAX_PASSAGES]
    citations = tuple(
        Citation(number, "", triple.subject, "graph", f"{triple.subject} → {triple.relation} → {triple.object}")
        for number, triple in enumerate(triples, 1)
    )
    return Answer(
        found.text,
        "graph",
        found=True,
        supported=True,
        citations=citations,
        strength=found.probability,
        complete=found.complete,
        span=found.text,
    )


def _whole(answer: Answer) -> Iterator[str | Answer]:
    yield answer.text
    yield answer
