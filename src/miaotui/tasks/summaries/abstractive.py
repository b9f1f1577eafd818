"""Abstractive summaries: a chat model writes, and a sentence that the text does not support is dropped.

Owns the prompt and what becomes of the answer. Knows models by `WriteSteps`. Invariants: every sentence of the result
has a place in the text that supports it; where none is left, the summary is extracted.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

from miaotui.errors import RequestError
from miaotui.retrieval.query.analysis import has_chinese
from miaotui.retrieval.sentences import sentences
from miaotui.tasks.checks import require_text
from miaotui.tasks.summaries.extractive import MAX_CHARACTERS, extract_summary, joined
from miaotui.tasks.summaries.result import SummaryLength, SummaryPart, TextSummary
from miaotui.tasks.summaries.support import LEAST, support_of
from miaotui.tasks.summaries.units import units_of
from miaotui.tasks.writing.steps import WriteRequest, WrittenAnswer
from miaotui.types import SamplingParams

TOKENS_A_SENTENCE = 64


def written_summary(
    text: str, length: SummaryLength, *, index: int = 0, model: str = ""
) -> Generator[Sequence[WriteRequest], Sequence[WrittenAnswer], TextSummary]:
    """Ask for a summary and check it; a text that cannot be taken gives a result with an error."""
    try:
        require_text(text, index, MAX_CHARACTERS)
        most = length.most_units or max((length.words or int((length.seconds or 30) * 4)) // 20, 1)
        params = SamplingParams(max_tokens=TOKENS_A_SENTENCE * most, repetition_penalty=1.05)
        (answer,) = yield [WriteRequest(messages_for(text, most, length), params, passages=[text])]
    except RequestError as error:
        return TextSummary(index=index, method="write", model=model, error=str(error))
    parts, dropped = checked_parts(answer, text, length, most)
    if not parts:
        return replace(extract_summary(text, length, index=index), dropped=tuple(dropped), model=model)
    whole = joined([part.text for part in parts])
    return TextSummary(index=index, text=whole, parts=tuple(parts), dropped=tuple(dropped), method="write", model=model)


def messages_for(text: str, most: int, length: SummaryLength) -> list[dict[str, str]]:
    """Return the conversation that asks for a summary, in the text's language."""
    if has_chinese(text):
        wanted = "一个简短的标题" if length.unit == "clause" else f"{most}句话的摘要"
        return [{"role": "user", "content": f"{text}\n\n为上面的文字写{wanted}。只写原文中有的内容，不要解释。"}]
    plural = "s" * (most > 1)
    wanted = "a short title for" if length.unit == "clause" else f"a summary of {most} short sentence{plural} of"
    rules = "Use only what the text says. Do not explain."
    return [{"role": "user", "content": f"{text}\n\nWrite {wanted} the text above. {rules}"}]


def checked_parts(
    answer: WrittenAnswer, text: str, length: SummaryLength, most: int
) -> tuple[list[SummaryPart], list[str]]:
    """Return the sentences that the text supports, within the length, and those that it does not support."""
    written = answer.text.strip()
    places = sentences(written)
    if answer.is_cut and len(places) > 1:
        places.pop()  # the last one is no sentence
    units = units_of(text)
    parts: list[SummaryPart] = []
    dropped: list[str] = []
    for start, end in places:
        sentence = written[start:end]
        found = support_of(sentence, text, units)
        if found.share < LEAST or any(sentence == part.text for part in parts):
            dropped.append(sentence)
        elif len(parts) < most and length.holds(joined([*(part.text for part in parts), sentence])):
            parts.append(SummaryPart(text=sentence, start=found.start, end=found.end, score=round(found.share, 4)))
    return parts, dropped
