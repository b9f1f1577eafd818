"""Wording of a graph's answer: a chat model makes one sentence of the question, the answer and its proof.

Owns the prompt and the check of the sentence. Knows models by `WriteSteps`, graphs by their answers. Invariants: the
graph decides, the model only words; a sentence is dropped if it lacks an entity of the answer, denies it, does not say
of whom it is true, or has numbers or names that question and proof lack. Then the entities alone are the text.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from miaotui.errors import RequestError
from miaotui.retrieval.graph.answers import GraphAnswer
from miaotui.retrieval.graph.lexicon import FUNCTION_WORDS
from miaotui.retrieval.graph.names import words_of
from miaotui.retrieval.query.analysis import has_chinese
from miaotui.tasks.summaries.support import LEAST, support_of
from miaotui.tasks.writing.steps import WriteRequest, WrittenAnswer
from miaotui.types import SamplingParams

MOST_ENTITIES = 5  # of an answer that a model words; longer lists stay lists
_TOKENS = 96
_STEM = 4  # characters that words of one stem share
_DENIAL = re.compile(r"\b(?:not|no|never|unknown|unclear|cannot)\b|n't\b|不|没|未")


@dataclass(frozen=True)
class WordedAnswer:
    """Text of a graph's answer. ``is_written``: a chat model worded it, and the check found nothing wrong."""

    text: str
    is_written: bool = False


WordingSteps = Generator[Sequence[WriteRequest], Sequence[WrittenAnswer], WordedAnswer]


def wording_steps(answer: GraphAnswer) -> WordingSteps:
    """Ask for a sentence that says an answer, and check it; without an answer in the graph no model is asked."""
    if not answer.found or len(answer.entities) > MOST_ENTITIES:
        return WordedAnswer(answer.text)
    facts = facts_of(answer)
    try:
        (found,) = yield [WriteRequest(_messages(answer, facts), SamplingParams(max_tokens=_TOKENS), passages=facts)]
    except RequestError:
        return WordedAnswer(answer.text)
    sentence = " ".join(found.text.split())
    is_sound = not found.is_cut and says(sentence, answer, facts)
    return WordedAnswer(sentence, True) if is_sound else WordedAnswer(answer.text)


def facts_of(answer: GraphAnswer) -> list[str]:
    """Return the triples of the proof as lines of words, each once."""
    triples = dict.fromkeys(triple for path in answer.paths for triple in path)
    return [" ".join(f"{each.subject} | {each.relation} | {each.object}".replace("_", " ").split()) for each in triples]


def says(sentence: str, answer: GraphAnswer, facts: Sequence[str]) -> bool:
    """Return whether a sentence says an answer and nothing that question and proof lack."""
    known = " ".join([answer.question, *facts])
    words = f" {' '.join(words_of(sentence))} "
    names = [f" {' '.join(words_of(entity))} " for entity in answer.entities]
    if not sentence or not all(name in words for name in names):
        return False
    if _DENIAL.search(sentence.lower()) and not _DENIAL.search(known.lower()):
        return False
    return _names_the_way(words.split(), answer) and support_of(sentence, known).share >= LEAST


def _names_the_way(words: Sequence[str], answer: GraphAnswer) -> bool:
    """Return whether a sentence says of whom its answer is true: it names the entity before the answer, or it has a
    word of the question's way there, as "child" of "the job of her children".
    """
    said = f" {' '.join(words)} "
    if any(f" {' '.join(words_of(path[-1].subject))} " in said for path in answer.paths):
        return True
    inner = [word for relation in answer.reading[:-1] for word in words_of(relation)]
    own = {*words_of(answer.subject), *(word for entity in answer.entities for word in words_of(entity))}
    way = {word[:_STEM] for word in [*words_of(answer.question), *inner] if word not in FUNCTION_WORDS} - own
    return any(word[:_STEM] in way for word in words if word not in own)


def _messages(answer: GraphAnswer, facts: Sequence[str]) -> list[dict[str, str]]:
    """Return the conversation that asks for the sentence, in the question's language."""
    found = ", ".join(each.replace("_", " ") for each in answer.entities)
    lines = "\n".join(facts)
    if has_chinese(answer.question):
        asked = "用一句话回答问题，说出答案，只用上面的事实。"
        return [{"role": "user", "content": f"事实：\n{lines}\n\n问题：{answer.question}\n答案：{found}\n\n{asked}"}]
    asked = "Answer the question in one short sentence that has the answer. Use only these facts."
    return [{"role": "user", "content": f"Facts:\n{lines}\n\nQuestion: {answer.question}\nAnswer: {found}\n\n{asked}"}]
