"""Likelihoods of sentences from one model: how they are asked for, and how they are read.

Owns the requests and what a model's vocabulary knows of words. Knows no engine. Invariant: a sentence's score is that
of its own tokens, after the prompt's.
"""

from __future__ import annotations

from functools import cache, partial

from miaotui.libraries import need
from miaotui.tasks.correction.corrector import CorrectionLanguages, ScoredSentences, SentenceScore
from miaotui.tasks.correction.english import known_words
from miaotui.text.continuation import continued
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import Completion, SamplingParams


def languages_of(tokenizer: Tokenizer) -> CorrectionLanguages:
    """Return the known words for one model: English ones by its vocabulary."""
    return CorrectionLanguages(cache(partial(known_words, tokenizer, tokenizer.vocab_size)), _is_chinese_word)


def score_requests(
    wanted: ScoredSentences, tokenizer: Tokenizer, context: int
) -> list[tuple[list[int], SamplingParams]]:
    """Return a request for each sentence. Raises `PromptTooLongError`."""
    found = []
    for sentence in wanted.sentences:
        tokens, start = continued(tokenizer, wanted.prompt, sentence, context)
        found.append((tokens, SamplingParams(max_tokens=0, prompt_logprobs=0, prompt_logprobs_start=start)))
    return found


def score_read(completion: Completion, tokenizer: Tokenizer) -> SentenceScore:
    """Return the score of a request's sentence."""
    ends: list[tuple[int, float]] = []
    spelt, total = b"", 0.0
    for each in completion.prompt_logprobs:
        if each is not None:
            spelt += tokenizer.token_bytes(each.token_id)
            total += each.logprob
            ends.append((len(spelt.decode("utf-8", "ignore")), each.logprob))
    return SentenceScore(total, ends)


@cache
def _is_chinese_word(word: str) -> bool:
    """Return whether jieba's dictionary has a word. Raises `MissingLibraryError` without rjieba."""
    return len(need("rjieba").cut(word, False)) == 1
