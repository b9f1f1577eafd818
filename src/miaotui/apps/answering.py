"""Question answering over documents: from evidence to a checked answer.

Owns the steps of one answer: weak evidence is reported as weak, a span is extracted or a short prompt is made, and
the model's text is cited and checked as it comes. Knows neither indexes nor engines nor HTTP; `qa_pipeline` and the
server's route move the steps on. Invariant: every answer names its passages, or says that the documents do not say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from miaotui.apps.citations import Citing
from miaotui.apps.evidence import Evidence, LeftOut
from miaotui.apps.question_types import AnswerForm, Kind, form_of, kind_of
from miaotui.apps.segmentation import terms_of
from miaotui.apps.spans.pieces import Place, names_item, whole_piece
from miaotui.apps.spans.ranking import RankedSentence, Span, best_spans, distinct_spans
from miaotui.errors import RequestError
from miaotui.retrieval.meaning.languages import is_chinese
from miaotui.retrieval.sentences import sentences

How = Literal["extractive", "selected", "generated", "graph", "none"]
Mode = Literal["extractive", "generated"]
MAX_QUESTION_CHARS = 2_000
EXTRACTIVE_MS, GENERATED_MS = 200.0, 1_000.0  # default deadlines
ANSWER_TOKENS = 48
LEAST_ANSWER_TOKENS = 16  # fewer say nothing whole: a span says more
LEAST_PROMPT_TOKENS, MOST_PROMPT_TOKENS = 96, 384  # small models lose the thread in longer ones

SURE = 0.9  # strength from which a model's "not found" does not count: small ones say it too often
NEARLY = 0.7  # of the best sentence's support
MOST_SECOND_CHARS = 200  # of a second sentence

_SYSTEM_EN = (
    "Answer the question in one short sentence, with facts from the passages only. "
    "If they do not say it, answer: not found."
)
_SYSTEM_ZH = "只根据下面的段落，用一句话简短回答问题。段落中没有答案时，回答：未找到。"
_NOT_FOUND_EN = "Not found in the documents."
_NOT_FOUND_ZH = "文档中没有找到答案。"
# Forms of an answer in another language than the passages', which small models copy: some Chinese, or none.
_IN_CHINESE, _IN_OTHERS = r"[^\u3400-\u9fff]{0,24}[\u3400-\u9fff][^\n]*", r"[^\u3400-\u9fff\n]+"
_SAYS_NOT_FOUND = ("not found", "未找到", "没有找到")


@dataclass(frozen=True)
class Citation:
    """Passage ``number`` (from 1) of an answer: its source, and the sentence that counts."""

    number: int
    id: str
    title: str
    source: str
    quote: str


@dataclass(frozen=True)
class Answer:
    """Whole answer. ``supported``: every sentence of it has a passage that says so; ``span``: the words of a
    passage that it comes down to; ``left_out``: the work that the deadline left no time for.
    """

    text: str
    how: How
    found: bool
    supported: bool
    citations: tuple[Citation, ...] = ()
    dropped: tuple[int, ...] = ()
    strength: float = 0.0
    index: str = ""
    version: str = ""
    shortened: bool = False
    complete: bool = True  # no part of the index was missing
    cache: str = "miss"
    took_ms: float = 0.0
    span: str = ""
    left_out: tuple[LeftOut, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return this answer as plain values."""
        return asdict(self)

    def to_bytes(self) -> bytes:
        """Return this answer in the form in which a cache keeps it."""
        return json.dumps(self.to_json(), ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes, cache: str, took_ms: float) -> Answer:
        """Read the result of `to_bytes`, also of versions that knew fewer values."""
        values = json.loads(data)
        values["citations"] = tuple(Citation(**each) for each in values["citations"])
        for name in ("dropped", "left_out"):
            values[name] = tuple(values.get(name, ()))
        return replace(cls(**values), cache=cache, took_ms=took_ms)


def checked_question(text: object) -> str:
    """Return the question if it is valid. Raises `RequestError`."""
    if not isinstance(text, str) or not text.strip():
        raise RequestError("the question is empty: write what you want to know")
    if len(text) > MAX_QUESTION_CHARS:
        raise RequestError(f"the question has {len(text):,} characters; at most {MAX_QUESTION_CHARS:,} fit")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise RequestError("the question is not valid Unicode: it has half of a surrogate pair")
    return text.strip()


def not_found(evidence: Evidence) -> Answer:
    """Return the answer that says that the documents hold none."""
    text = _NOT_FOUND_ZH if is_chinese(evidence.question) else _NOT_FOUND_EN
    return Answer(
        text,
        "none",
        found=False,
        supported=False,
        strength=evidence.strength,
        index=evidence.index,
        version=evidence.version,
        complete=evidence.complete,
        left_out=evidence.left_out,
    )


def extract(evidence: Evidence) -> Answer:
    """Return the best span of the evidence, without a model: its whole sentence where the span alone may say too
    little, with a sentence of the passage that is nearly as good; a list where one is asked for and there is one.
    """
    span = _best_span(evidence)
    if span is None:
        return not_found(evidence)
    listed = list_of(evidence)
    if listed is not None:
        return replace(listed, span=span.text if span.text in listed.citations[0].quote else "")
    others = () if span.is_answer or evidence.signals is None else _nearly_as_good(evidence.ranked, span)
    return quoted(evidence, "extractive", span.passage, span.sentence, span.text, alone=span.is_answer, others=others)


def _best_span(evidence: Evidence) -> Span | None:
    """Return the best span: of the best sentence where an explanation is asked for, whose words give little away."""
    if evidence.is_weak:
        return None
    question, by_meaning = evidence.question, evidence.signals is not None
    texts = [passage.text for passage in evidence.passages]
    if form_of(question) is AnswerForm.SENTENCE and kind_of(question) is Kind.THING:
        found = distinct_spans(question, texts, evidence.ranked[:1], by_meaning=by_meaning)
        if found:
            return found[0]
    return next(iter(best_spans(question, texts, 1, evidence.ranked if by_meaning else ())), None)


def list_of(evidence: Evidence) -> Answer | None:
    """Return the list that the question asks for, whole, or the one item of it that the question names.

    It is the list that the best sentence opens or lies in, or else a next best sentence of its passage, or the sentence
    after the best one. None where no list is asked for, or the sentences near the question have none.
    """
    if evidence.is_weak or form_of(evidence.question) is not AnswerForm.LIST:
        return None
    number = evidence.ranked[0].passage
    text = evidence.passages[number].text
    near = [(each.start, each.end) for each in evidence.ranked if each.passage == number]
    named = [place for place in near if names_item(text, place, evidence.question)]
    if len(named) == 1:
        return quoted(evidence, "extractive", number, named[0], "", alone=False)
    for sentence in [*near, *_following(text, near[0])]:
        start, end = whole_piece(text, sentence, is_list=True)
        if "\n" in text[start:end].strip():
            return quoted(evidence, "extractive", number, sentence, "", alone=False)
    return None


def _following(text: str, sentence: Place) -> list[Place]:
    """Return the place of the next sentence, which may open a list in other words ("it takes these steps:")."""
    return [place for place in sentences(text) if place[0] >= sentence[1]][:1]


def quoted(
    evidence: Evidence, how: How, number: int, sentence: Place, span: str, *, alone: bool, others: Sequence[Place] = ()
) -> Answer:
    """Return the answer that a span of a passage's sentence makes: ``alone``, or else the whole piece around it in its
    own lines, with ``others``, further sentences of the passage.
    """
    passage, form = evidence.passages[number], form_of(evidence.question)
    places = [sentence]
    if not alone:
        is_list = form is AnswerForm.LIST and not names_item(passage.text, sentence, evidence.question)
        piece = whole_piece(passage.text, sentence, is_list=is_list)
        apart = [place for place in others if place[1] <= piece[0] or place[0] >= piece[1]]
        places = sorted([piece, *apart])
    pieces = [passage.text[start:end] for start, end in places]
    lines = [" ".join(line.split()) for line in "\n".join(pieces).splitlines()] if _is_list(pieces) else []
    return Answer(
        span if alone else "\n".join(lines) or " ".join(" ".join(pieces).split()),
        how,
        found=True,
        supported=True,
        citations=(Citation(1, passage.id, passage.title, passage.source, " ".join(pieces)),),
        strength=evidence.strength,
        index=evidence.index,
        version=evidence.version,
        complete=evidence.complete,
        span=span,
        left_out=evidence.left_out,
    )


def _is_list(pieces: Sequence[str]) -> bool:
    return any("\n" in piece.strip() for piece in pieces)


def _nearly_as_good(ranked: Sequence[RankedSentence], span: Span) -> list[Place]:
    """Return the place of the best sentence besides the span's, if it is of its passage and nearly as good."""
    apart = [each for each in ranked[:2] if each.place != (span.passage, *span.sentence)]
    return [
        (each.start, each.end)
        for each in apart[:1]
        if each.support >= NEARLY and each.passage == span.passage and each.end - each.start <= MOST_SECOND_CHARS
    ]


def is_selectable(evidence: Evidence) -> bool:
    """Return whether question and best passage are of one language, so that the passage's words answer it."""
    if not evidence.ranked:
        return False
    best = evidence.ranked[0]
    return is_chinese(evidence.question) == is_chinese(evidence.passages[best.passage].text[best.start : best.end])


@dataclass
class Composing:
    """Answer in progress: `messages` for the model, then `push` its text, then `end`."""

    evidence: Evidence
    messages: list[dict[str, str]]
    excerpts: Sequence[str]
    max_tokens: int = ANSWER_TOKENS
    least_tokens: int = LEAST_ANSWER_TOKENS
    otherwise: Answer | None = None  # given where the model says that there is none, against strong evidence
    instead: Answer | None = None  # given where the model repeats the question, or answers in another language
    structured: Mapping[str, Any] | None = None  # form of the text, if it is bound to one
    citing: Citing = field(init=False)
    _begun: bool = False
    _text: list[str] = field(default_factory=list)
    _shown: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.citing = Citing(self.excerpts)

    def push(self, piece: str) -> str:
        """Add a piece of the model's text. Returns the text that can be shown now."""
        self._text.append(piece)
        if not self._begun:
            if (self.otherwise is not None and self._refuses()) or self._says_nothing():
                return ""
            piece, self._begun = "".join(self._text), True
        shown = self.citing.push(piece)
        self._shown.append(shown)
        return shown

    def _says_nothing(self) -> bool:
        """Return whether the text so far only repeats the question, or is not in its language."""
        if self.instead is None or self._refuses():
            return False
        said, question = "".join(self._text).strip(), self.evidence.question
        if said.casefold() in question.casefold() or terms_of(said) <= terms_of(question):
            return True
        return any(map(str.isalpha, said)) and is_chinese(said) != is_chinese(question)

    def _refuses(self) -> bool:
        """Return whether the text so far says, or begins to say, that there is no answer."""
        said = "".join(self._text).strip().casefold()
        return any(mark.startswith(said) or said.startswith(mark) for mark in _SAYS_NOT_FOUND)

    def end(self, shortened: bool = False) -> tuple[str, Answer]:
        """Return (the rest to show, the whole answer)."""
        if not self._begun and self.instead is not None and self._says_nothing():
            return self.instead.text, self.instead
        if self.otherwise is not None and not self._begun:
            return self.otherwise.text, self.otherwise
        rest = self.citing.close()
        self._shown.append(rest)
        text, said = "".join(self._shown).strip(), "".join(self._text).casefold()
        if not text:
            nothing = not_found(self.evidence)
            return nothing.text, nothing
        if any(mark in said for mark in _SAYS_NOT_FOUND):
            return rest, replace(not_found(self.evidence), text=text)
        evidence, citing = self.evidence, self.citing
        answer = Answer(
            text,
            "generated",
            found=True,
            supported=citing.all_supported,
            citations=tuple(self._citation(number) for number in citing.numbers),
            dropped=tuple(dict.fromkeys(citing.dropped)),
            strength=evidence.strength,
            index=evidence.index,
            version=evidence.version,
            complete=evidence.complete,
            shortened=shortened,
            span="" if self.instead is None else self.instead.span,
            left_out=evidence.left_out,
        )
        return rest, answer

    def _citation(self, number: int) -> Citation:
        passage, quote = self.evidence.passages[number - 1], self.excerpts[number - 1]
        return Citation(number, passage.id, passage.title, passage.source, quote)


def compose(evidence: Evidence, count: Callable[[str], int], budget: int, max_tokens: int = ANSWER_TOKENS) -> Composing:
    """Make a prompt of at most ``budget`` tokens (as ``count`` counts a text) from evidence that has a sentence."""
    chinese = is_chinese(evidence.question)
    system = _SYSTEM_ZH if chinese else _SYSTEM_EN
    room = min(max(budget, LEAST_PROMPT_TOKENS), MOST_PROMPT_TOKENS)
    left = room - count(system + evidence.question) - 24
    chosen = evidence.excerpts(lambda text: count(text) + 6 * text.count("\n") <= left)
    used = [n for n, excerpt in enumerate(chosen) if excerpt]
    if not used:  # not even one sentence fits: a part of the best one
        number, start, end = evidence.ranked[0].place
        text = evidence.passages[number].text[start:end]
        chosen[number] = text[: max(1, len(text) * max(left, 16) // max(1, count(text)))]
        used = [number]
    kept = replace(evidence, passages=tuple(evidence.passages[n] for n in used))
    excerpts = [chosen[n] for n in used]
    listed = "\n".join(f"[{n}] {excerpt}" for n, excerpt in enumerate(excerpts, 1))
    asked = f"问题：{evidence.question}" if chinese else f"Question: {evidence.question}"
    messages = [{"role": "system", "content": system}, {"role": "user", "content": f"{listed}\n\n{asked}"}]
    cut_out = extract(evidence)
    otherwise = cut_out if evidence.strength >= SURE else None
    instead = cut_out if is_selectable(evidence) else None
    form = None if instead is not None else {"regex": _IN_CHINESE if chinese else _IN_OTHERS}
    return Composing(kept, messages, excerpts, max_tokens, otherwise=otherwise, instead=instead, structured=form)
