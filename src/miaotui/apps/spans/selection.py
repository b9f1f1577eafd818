"""Short answers that a chat model selects: a span of the passages, and nothing else.

Owns the prompt with its examples, the spans that may be the answer, and the answer that one of them makes. Knows
neither indexes nor engines. Invariant: a selected span is a piece of a sentence of its passage, character for
character, so that every answer has its citation. The examples follow "Language Models are Few-Shot Learners" (Brown et
al., 2020).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from miaotui.apps.answering import Answer, extract, quoted
from miaotui.apps.evidence import Evidence
from miaotui.apps.question_types import AnswerForm, fit, form_of, kind_of
from miaotui.apps.segmentation import words
from miaotui.apps.spans.phrase_scores import CandidatePhrase, PhraseReader
from miaotui.apps.spans.ranking import RankedSentence, Span, distinct_spans
from miaotui.retrieval.meaning.languages import is_chinese
from miaotui.retrieval.sentences import sentences

MOST_SPANS = 200  # that are put to the model
READ_TOKENS = 12  # in which as much time passes as reading the spans after the prompt takes, about
SPAN_WEIGHT_EN, SPAN_WEIGHT_ZH = 0.5, 3.0  # of a span's own score beside the model's nats
TOKEN_WEIGHT = 0.3  # nats for each token: longer spans are less probable
MOST_PASSAGES = 2  # that are read whole, if there is room
MOST_PASSAGE_TOKENS = 448  # of all sentences together
LEAST_PASSAGE_TOKENS = 48
ENOUGH_EXCESS = 1  # tokens beyond a whole page
_EXAMPLE_TOKENS = 128  # of the examples, about
_MARGIN_TOKENS = 24  # of the chat template around a message
_CHOICE = re.compile(r"\bor\b|还是|或者?", re.IGNORECASE)  # one of the question's own words may be the answer

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


Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Selection:
    """Question put to a chat model: its `messages`, and the sentences that it reads, whose spans may be the answer."""

    evidence: Evidence
    messages: Messages
    read: tuple[RankedSentence, ...]

    def spans(self, limit: int = MOST_SPANS) -> list[Span]:
        """Return the spans that may be the answer, the best by form and place first; none repeats the question."""
        question = self.evidence.question
        texts = [passage.text for passage in self.evidence.passages]
        by_meaning = self.evidence.signals is not None
        among = [each for each in self.read if each in self.evidence.ranked] if by_meaning else self.read
        found = distinct_spans(question, texts, among, by_meaning=by_meaning)
        if not _CHOICE.search(question):
            found = [span for span in found if not span.repeats]
        return found[:limit]

    def best(self, reader: PhraseReader, spans: Sequence[Span]) -> Span:
        """Return the span that model and form prefer. Raises `RefusedError` if the reader has no time."""
        weight = SPAN_WEIGHT_ZH if is_chinese(self.evidence.question) else SPAN_WEIGHT_EN
        phrases = [CandidatePhrase(span.text, weight * span.score) for span in spans]
        found = reader.read(reader.trie(phrases, per_token=TOKEN_WEIGHT))
        return spans[phrases.index(found[0].phrase)]

    def answer(self, span: Span) -> Answer:
        """Return the answer that a span makes: alone where a phrase was asked for, or else with its sentence."""
        best = self.evidence.ranked[0]
        others = [(best.start, best.end)] if best.passage == span.passage else []
        alone = self._says_enough(span.text)
        return quoted(self.evidence, "selected", span.passage, span.sentence, span.text, alone=alone, others=others)

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


def select(
    evidence: Evidence, count: Callable[[str], int], budget: int, excess: Callable[[Messages], int] | None = None
) -> Selection:
    """Make a prompt of about ``budget`` tokens (as ``count`` counts a text) from evidence that has a sentence.

    With less room the examples are left out first, then sentences: those that rank last; before them those that only
    stand beside the ones that rank. ``excess`` counts the tokens of messages beyond a whole page of the KV cache, which
    each span would read again: one sentence beside the others is left out to save most of them.
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
    order = [*evidence.ranked, *_beside(evidence)]
    costs = [count(_text(evidence, sentence)) + 1 for sentence in order]
    wanted = _fitting(costs, MOST_PASSAGE_TOKENS)
    chosen = _fitting(costs, max(LEAST_PASSAGE_TOKENS, min(room, MOST_PASSAGE_TOKENS)))
    if len(chosen) < len(wanted):
        left_out.append("passages")
    roles = ("user", "assistant") * (len(examples) // 2)
    opening = [{"role": "system", "content": system}]
    opening += [{"role": role, "content": text} for role, text in zip(roles, examples, strict=True)]
    found = _put(replace(evidence, left_out=tuple(left_out)), opening, [order[number] for number in chosen])
    return found if excess is None else _aligned(found, opening, excess)


def _put(evidence: Evidence, opening: Messages, read: Sequence[RankedSentence]) -> Selection:
    """Return the question with some sentences after the opening messages."""
    chinese = is_chinese(evidence.question)
    listed = _listed(evidence, read, "" if chinese else " ")
    asked = f"段落：{listed}\n\n问题：" if chinese else f"Passage: {listed}\n\nQuestion: "
    messages = [*opening, {"role": "user", "content": asked + evidence.question}]
    return Selection(evidence, messages, tuple(read))


def _aligned(selection: Selection, opening: Messages, excess: Callable[[Messages], int]) -> Selection:
    """Return a selection of small excess: this one, or without one of the sentences beside those that rank."""
    evidence, read = selection.evidence, selection.read
    best, least = selection, excess(selection.messages)
    for left in reversed([each for each in read if each not in evidence.ranked]):
        if least <= ENOUGH_EXCESS:
            break
        fewer = _put(evidence, opening, [each for each in read if each is not left])
        over = excess(fewer.messages)
        if over < least:
            best, least = fewer, over
    return best


def _beside(evidence: Evidence) -> list[RankedSentence]:
    """Return the other sentences of the passages that rank first."""
    ranked = {sentence.place for sentence in evidence.ranked}
    found = []
    for number in list(dict.fromkeys(each.passage for each in evidence.ranked))[:MOST_PASSAGES]:
        for start, end in sentences(evidence.passages[number].text):
            sentence = RankedSentence(number, start, end, 0.0)
            if sentence.place not in ranked:
                found.append(sentence)
    return found


def _fitting(costs: Sequence[int], room: int) -> list[int]:
    """Return the numbers of the sentences that fit, best first; the best one in any case."""
    chosen: list[int] = []
    for number, cost in enumerate(costs):
        if cost <= room or not chosen:
            chosen.append(number)
            room -= cost
    return chosen


def _listed(evidence: Evidence, read: Sequence[RankedSentence], between: str) -> str:
    """Return sentences in their passages' order, under the headings of the passages."""
    blocks = []
    for number in dict.fromkeys(sentence.passage for sentence in read):
        own = sorted((sentence for sentence in read if sentence.passage == number), key=lambda each: each.start)
        text = between.join(_text(evidence, sentence) for sentence in own)
        heading = evidence.passages[number].title.rpartition(" › ")[2].replace("_", " ")
        blocks.append(f"{heading}\n{text}" if heading and not text.startswith("#") else text)
    return "\n".join(blocks)


def _text(evidence: Evidence, sentence: RankedSentence) -> str:
    return evidence.passages[sentence.passage].text[sentence.start : sentence.end]
