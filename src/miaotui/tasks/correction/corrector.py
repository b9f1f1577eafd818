"""Correction of one text: candidates are tried sentence by sentence, and a language model judges each.

Owns the steps: which candidates are tried, and which edits stay. The likelihood of whole sentences judges, as in
Bryant and Briscoe, "Language Model Based Grammatical Error Correction without Annotated Training Data" (2018): an edit
stays if the sentence gains what edits of its kind must gain. Knows no engine: it yields sentences and is sent their
scores. Invariant: a text that is not changed costs one round of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace

from miaotui.errors import RequestError
from miaotui.retrieval.query.analysis import has_chinese
from miaotui.retrieval.sentences import sentences
from miaotui.tasks.correction.candidates import EditCandidate
from miaotui.tasks.correction.chinese import chinese_candidates
from miaotui.tasks.correction.english import english_candidates
from miaotui.tasks.correction.result import CorrectedText, TextEdit, applied

ENGLISH_PROMPT = "A sentence in correct English:\n"
CHINESE_PROMPT = "一个没有错别字的句子：\n"
MOST_TRIED = 48  # candidates of a sentence
MOST_EDITS = 4  # of a sentence
MOST_AGAIN = 8  # candidates that are tried again beside an edit
MAX_CHARACTERS = 20_000  # of a text
MAX_SENTENCE = 400  # characters: a longer one is left alone


@dataclass(frozen=True)
class SentenceScore:
    """Log-likelihood of a sentence in nats, and of each token: where it ends, in characters, and its share."""

    total: float
    ends: Sequence[tuple[int, float]]

    def surprise(self, start: int, end: int) -> float:
        """Return the largest surprise, in nats, of the tokens from ``start`` up to the one after ``end``."""
        found, begin = 0.0, 0
        for stop, logprob in self.ends:
            if stop > start and begin <= end + 1:
                found = max(found, -logprob)
            begin = stop
        return found


@dataclass(frozen=True)
class ScoredSentences:
    """Sentences whose likelihoods a correction waits for, after a prompt."""

    prompt: str
    sentences: Sequence[str]


CorrectionSteps = Generator[ScoredSentences, Sequence[SentenceScore], CorrectedText]


@dataclass(frozen=True)
class CorrectionLanguages:
    """Known words by language: those of English by rank, made when the first text needs it, and whether one is
    Chinese.
    """

    english: Callable[[], Mapping[str, int]]
    is_chinese: Callable[[str], bool]

    def candidates(self, sentence: str, is_chinese: bool) -> list[EditCandidate]:
        """Return candidates for a sentence."""
        if is_chinese:
            return chinese_candidates(sentence, self.is_chinese)
        return english_candidates(sentence, self.english())


def correction_steps(
    text: object, languages: CorrectionLanguages, *, index: int = 0, model: str = ""
) -> CorrectionSteps:
    """Correct one text; a text that cannot be taken has an error."""
    if not isinstance(text, str) or not text.strip():
        return CorrectedText(index=index, model=model, error=f"texts[{index}]: give a text with something in it")
    if len(text) > MAX_CHARACTERS:
        said = f"texts[{index}] has {len(text):,} characters, and at most {MAX_CHARACTERS:,} are corrected: cut it"
        return CorrectedText(index=index, model=model, error=said)
    edits: list[TextEdit] = []
    try:
        for start, end in sentences(text):
            if end - start <= MAX_SENTENCE:
                found = yield from _sentence_steps(text[start:end], languages)
                edits += [replace(each, start=each.start + start, end=each.end + start) for each in found]
    except RequestError as error:
        return CorrectedText(index=index, model=model, error=f"texts[{index}]: {error}")
    return CorrectedText(index=index, text=applied(text, edits), edits=tuple(edits), model=model)


def _sentence_steps(
    sentence: str, languages: CorrectionLanguages
) -> Generator[ScoredSentences, Sequence[SentenceScore], list[TextEdit]]:
    """Return the edits of a sentence: the best one first, then those that still gain beside it."""
    is_chinese = has_chinese(sentence)
    prompt = CHINESE_PROMPT if is_chinese else ENGLISH_PROMPT
    tried = languages.candidates(sentence, is_chinese)
    if not tried:
        return []
    (before,) = yield ScoredSentences(prompt, [sentence])
    tried = sorted(tried, key=lambda each: each.need - before.surprise(each.start, each.end))[:MOST_TRIED]
    kept: list[TextEdit] = []
    while tried and len(kept) < MOST_EDITS:
        texts = [applied(sentence, [*kept, _edit(sentence, each, 0.0)]) for each in tried]
        scores = yield ScoredSentences(prompt, texts)
        gains = [score.total - before.total for score in scores]
        over = [gain - each.need for gain, each in zip(gains, tried, strict=True)]
        best = max(range(len(tried)), key=over.__getitem__)
        if over[best] <= 0:
            break
        kept.append(_edit(sentence, tried[best], gains[best]))
        before = scores[best]
        left = sorted(range(len(tried)), key=over.__getitem__, reverse=True)
        tried = [tried[at] for at in left if over[at] > 0 and not _overlap(tried[at], tried[best])][:MOST_AGAIN]
    return sorted(kept, key=lambda each: each.start)


def _edit(sentence: str, candidate: EditCandidate, gain: float) -> TextEdit:
    start, end = candidate.start, candidate.end
    return TextEdit(start, end, sentence[start:end], candidate.text, gain)


def _overlap(one: EditCandidate, other: EditCandidate) -> bool:
    return one.start <= other.end and other.start <= one.end
