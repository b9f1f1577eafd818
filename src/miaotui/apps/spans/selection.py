"""Short answers that a chat model selects: a span of the passages, and nothing else.

Owns the prompt with its examples, the grammar that allows only words of one sentence of the passages, and the answer
that the selected words make. Knows neither indexes nor engines. Invariant: a selected span is a piece of a sentence of
its passage, character for character, so that every answer has its citation. The examples follow "Language Models are
Few-Shot Learners" (Brown et al., 2020); the grammar is llguidance's automaton of a text's pieces.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from miaotui.apps.answering import Answer, extract, quoted
from miaotui.apps.evidence import Evidence
from miaotui.apps.question_types import AnswerForm, fit, form_of, kind_of
from miaotui.apps.segmentation import terms_of, words
from miaotui.apps.spans.pieces import Place
from miaotui.retrieval.meaning.languages import is_chinese
from miaotui.retrieval.sentences import sentences

SELECTED_TOKENS = 32
LEAST_SELECTED_TOKENS = 8
MOST_PASSAGES = 2
MOST_PASSAGE_TOKENS = 512  # of all passages together
LEAST_PASSAGE_TOKENS = 48
MOST_PIECES = 440
_EXAMPLE_TOKENS = 128  # of the examples, about
_MARGIN_TOKENS = 24  # of the chat template around a message
_EDGES = " \t\n.,;:!?()[]{}\"'“”‘’。，；：！？（）【】《》「」、"

_SYSTEM_EN = (
    "Answer the question with words copied from the passage. "
    "Give only the shortest phrase that answers it, nothing else."
)
_SYSTEM_ZH = "用段落中的原文回答问题。只给出能回答问题的最短词语，不要其他内容。"
_EXAMPLES_EN = (
    "Passage: The old bridge was built in 1823 by the engineer Thomas Reed. It crosses the river Lane near the town of "
    "Ashby, and about 4,000 people use it every day.\n\nQuestion: Who built the bridge?",
    "Thomas Reed",
    "Question: How many people use it every day?",
    "about 4,000",
)
_EXAMPLES_ZH = (
    "段落：这座老桥由工程师陈立于1823年建成，在安溪镇附近跨过蓝河，每天约有4000人经过。\n\n问题：谁建了这座桥？",
    "陈立",
    "问题：每天有多少人经过？",
    "约4000人",
)


@dataclass(frozen=True)
class Excerpt:
    """Part ``[start, end)`` of a passage that the model reads."""

    passage: int
    start: int
    end: int


@dataclass
class Selecting:
    """Selection in progress: `messages` and `structured` for the model, then `push` its text, then `end`.

    Nothing is shown before the end, since the words alone may say too little.
    """

    evidence: Evidence
    messages: list[dict[str, str]]
    parts: Sequence[Excerpt]
    max_tokens: int = SELECTED_TOKENS
    least_tokens: int = LEAST_SELECTED_TOKENS
    _said: list[str] = field(default_factory=list)

    @property
    def excerpts(self) -> list[str]:
        """Return the texts that the model reads."""
        return [self.evidence.passages[part.passage].text[part.start : part.end] for part in self.parts]

    @property
    def structured(self) -> dict[str, Any]:
        """Return the grammar: a run of words of one sentence, by meaning of those that are near the question."""
        near = []
        if self.evidence.signals is not None:
            near = [
                self.evidence.passages[each.passage].text[each.start : each.end]
                for each in self.evidence.ranked
                if any(part.passage == each.passage and part.start <= each.start < part.end for part in self.parts)
            ]
        return {"grammar": span_grammar(near or self.excerpts)}

    def push(self, piece: str) -> str:
        """Add a piece of the model's text. Returns the text that can be shown now, which is none."""
        self._said.append(piece)
        return ""

    def end(self, shortened: bool = False) -> tuple[str, Answer]:
        """Return (the text to show, the whole answer); the extracted one if the words stand in no sentence."""
        span = "".join(self._said).strip(_EDGES)
        found = self._place(span) if terms_of(span) and not shortened else None
        if found is None:
            answer = extract(self.evidence)
        else:
            number, sentence = found
            best = self.evidence.ranked[0]
            others = [(best.start, best.end)] if best.passage == number else []
            alone = self._says_enough(span)
            answer = quoted(self.evidence, "selected", number, sentence, span, alone=alone, others=others)
        return answer.text, answer

    def _says_enough(self, span: str) -> bool:
        """Return whether a phrase was asked for, the span's form does not speak against it and, by meaning, the words
        that are extracted without a model are the same, more or fewer.
        """
        question = self.evidence.question
        tags = frozenset(word.tag for word in words(span) if word.tag not in ("en", "x"))
        if form_of(question) is not AnswerForm.PHRASE or fit(kind_of(question), span, tags) <= -1.0:
            return False
        extracted = extract(self.evidence).span
        return self.evidence.signals is None or (extracted != "" and (span in extracted or extracted in span))

    def _place(self, span: str) -> tuple[int, Place] | None:
        """Return the passage and the sentence that has the span; of several the one that fits the question best."""
        places = [
            (part.passage, (start, end))
            for part in self.parts
            for start, end in sentences(self.evidence.passages[part.passage].text)
            if start < part.end and end > part.start
        ]
        having = [place for place in places if span in self.evidence.passages[place[0]].text[slice(*place[1])]]
        order = [(each.passage, (each.start, each.end)) for each in self.evidence.ranked]
        return min(having, key=lambda place: order.index(place) if place in order else len(order), default=None)


def select(
    evidence: Evidence, count: Callable[[str], int], budget: int, max_tokens: int = SELECTED_TOKENS
) -> Selecting:
    """Make a prompt of about ``budget`` tokens (as ``count`` counts a text) from evidence that has a sentence.

    The examples are left out first, then passages, then parts of the best one.
    """
    chinese = is_chinese(evidence.question)
    examples: tuple[str, ...]
    system, examples = (_SYSTEM_ZH, _EXAMPLES_ZH) if chinese else (_SYSTEM_EN, _EXAMPLES_EN)
    room = budget - count(system + evidence.question) - _MARGIN_TOKENS
    left_out = list(evidence.left_out)
    if room < LEAST_PASSAGE_TOKENS + 2 * _EXAMPLE_TOKENS:
        examples = ()
        left_out.append("examples")
    else:
        room -= _EXAMPLE_TOKENS
    wanted = list(dict.fromkeys(each.passage for each in evidence.ranked))[:MOST_PASSAGES]
    parts = chosen_parts(evidence, wanted, count, max(LEAST_PASSAGE_TOKENS, min(room, MOST_PASSAGE_TOKENS)))
    if room < MOST_PASSAGE_TOKENS and (len(parts) < len(wanted) or any(_is_cut(evidence, part) for part in parts)):
        left_out.append("passages")
    evidence = replace(evidence, left_out=tuple(left_out))
    listed = "\n".join(_with_heading(evidence, part) for part in parts)
    asked = f"段落：{listed}\n\n问题：" if chinese else f"Passage: {listed}\n\nQuestion: "
    roles = ("user", "assistant") * (len(examples) // 2)
    messages = [{"role": "system", "content": system}]
    messages += [{"role": role, "content": text} for role, text in zip(roles, examples, strict=True)]
    messages.append({"role": "user", "content": asked + evidence.question})
    return Selecting(evidence, messages, parts, max_tokens)


def chosen_parts(
    evidence: Evidence, wanted: Iterable[int], count: Callable[[str], int], room: int
) -> tuple[Excerpt, ...]:
    """Return parts of the wanted passages, in this order, of at most ``room`` tokens in all.

    Each part begins with its best sentence, which the first one has in any case, and grows by the sentences around it.
    """
    parts: list[Excerpt] = []
    for number in wanted:
        best = next(each for each in evidence.ranked if each.passage == number)
        text = evidence.passages[number].text
        places = sentences(text)
        costs = [count(text[start:end]) + 1 for start, end in places]
        at = max((index for index, (start, _) in enumerate(places) if start <= best.start), default=0)
        if costs[at] > room and parts:
            break
        first, last, room = _grown(costs, at, room)
        parts.append(Excerpt(number, places[first][0], places[last][1]))
    return tuple(parts)


def _grown(costs: Sequence[int], at: int, room: int) -> tuple[int, int, int]:
    """Return (first, last, room left) of the widest run of sentences around one of them that fits."""
    first = last = at
    left = room - costs[at]
    while True:
        before = first > 0 and costs[first - 1] <= left
        after = last + 1 < len(costs) and costs[last + 1] <= left
        if not before and not after:
            return first, last, max(0, left)
        if after and (not before or last - at <= at - first):
            last += 1
            left -= costs[last]
        else:
            first -= 1
            left -= costs[first]


def _is_cut(evidence: Evidence, part: Excerpt) -> bool:
    return part.end - part.start < len(evidence.passages[part.passage].text.strip())


def _with_heading(evidence: Evidence, part: Excerpt) -> str:
    """Return a part under its passage's heading."""
    passage = evidence.passages[part.passage]
    heading = passage.title.rpartition(" › ")[2].replace("_", " ")
    text = passage.text[part.start : part.end]
    return f"{heading}\n{text}" if heading and not text.startswith("#") else text


def span_grammar(texts: Iterable[str]) -> str:
    """Return the grammar, in llguidance's Lark, of the runs of words within one sentence of the texts.

    Only the first `MOST_PIECES` words, marks and spaces count: llguidance builds no automaton of more than about 500.
    """
    parts, room = [], MOST_PIECES
    for text in texts:
        for start, end in sentences(text):
            parts.append([*_pieces(text[start:end])][:room])
            room -= len(parts[-1])
    kept = [json.dumps({"substring_chunks": part}, ensure_ascii=False) for part in parts if part]
    terminals = list(dict.fromkeys(kept)) or [json.dumps({"substring_chunks": ["-"]})]
    names = [f"SENTENCE_{number}" for number in range(len(terminals))]
    lines = [f"{name}: %regex {terminal}" for name, terminal in zip(names, terminals, strict=True)]
    return "\n".join(["start: SPAN", f"SPAN: {' | '.join(names)}", *lines])


def _pieces(sentence: str) -> Iterable[str]:
    """Yield a sentence's words and marks, and the white space between them."""
    place = 0
    for word in words(sentence):
        if word.start > place:
            yield sentence[place : word.start]
        yield sentence[word.start : word.end]
        place = word.end
