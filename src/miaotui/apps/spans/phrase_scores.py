"""Phrases scored by a chat model: the log-probability of each as the whole answer, best first.

Owns which phrases are read, in few passes: one phrase with the prompt, whose last row has the first tokens of all; then
those that may still win, each path of tokens once for all phrases along it (branch and bound over a trie). Knows
neither passages nor questions. Invariant: the phrase chosen in time is the one of the highest score of all, as if each
had been read alone; out of time it is the best of those that were read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from miaotui.engine.reading.readers import DeltaStream
from miaotui.errors import OverloadedError, RefusedError, RequestError
from miaotui.llm import LLM
from miaotui.types import MAX_LOGPROB_TOKENS, Completion, Deadline, SamplingParams, TokenLogprobs

MOST_PATHS = 1  # read in one round: more bring rows that the first one often makes needless
FIRST_MARGIN = 1.0  # nats: of the phrases that are read with the prompt
TICK_S = 0.02  # between looks at the clock while a round runs

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class CandidatePhrase:
    """Text that may be the answer, and what speaks for it without the model, in nats."""

    text: str
    prior: float = 0.0


@dataclass(frozen=True)
class PhraseScore:
    """Score of a phrase: its log-probability with the end of the answer (nats), weighted, and its prior.

    It is a bound from above unless ``is_whole``: then all of its tokens were read.
    """

    phrase: CandidatePhrase
    logprob: float
    score: float
    is_whole: bool


@dataclass
class PhraseTrie:
    """Phrases as token ids that ``end`` closes, and the log-probabilities of their tokens that are known so far.

    A score is the prior, ``weight`` times the log-probability, and ``per_token`` for each token.
    """

    phrases: Sequence[CandidatePhrase]
    tokens: Sequence[Tokens]
    weight: float = 1.0
    per_token: float = 0.0
    _known: dict[Tokens, dict[int, float]] = field(default_factory=dict)

    def wanted(self, prefix: Tokens) -> list[int]:
        """Return the tokens that follow a prefix in any phrase."""
        depth = len(prefix)
        return sorted({each[depth] for each in self.tokens if len(each) > depth and each[:depth] == prefix})

    def learn(self, prefix: Tokens, found: Sequence[tuple[int, float]]) -> None:
        """Take the log-probabilities of tokens after a prefix."""
        self._known.setdefault(prefix, {}).update(found)

    def scores(self) -> list[PhraseScore]:
        """Return the score of each phrase by what is known: a bound from above where some of it is not."""
        return [self._score(phrase, tokens) for phrase, tokens in zip(self.phrases, self.tokens, strict=True)]

    def _score(self, phrase: CandidatePhrase, tokens: Tokens) -> PhraseScore:
        parts = [self._known.get(tokens[:place], {}).get(token) for place, token in enumerate(tokens)]
        logprob = math.fsum(part for part in parts if part is not None)
        score = phrase.prior + self.weight * logprob + self.per_token * len(tokens)
        return PhraseScore(phrase, logprob, score, None not in parts)

    def paths(self, most: int, margin: float = math.inf, slack: float = 0.0) -> list[Tokens]:
        """Return the paths to read next: of phrases that may be better than the best one known, or at most ``slack``
        below it; none if none may.

        A path that begins another one is read with it. Phrases whose bound is ``margin`` below the best are left.
        """
        scores = self.scores()
        best = max((each.score for each in scores if each.is_whole), default=-math.inf) - slack
        best = max(best, max(each.score for each in scores) - margin)
        open_ = [number for number, each in enumerate(scores) if not each.is_whole and each.score > best]
        chosen: list[Tokens] = []
        for number in sorted(open_, key=lambda number: -scores[number].score):
            tokens = self.tokens[number][:-1]
            within = next((place for place, path in enumerate(chosen) if tokens[: len(path)] == path), None)
            if within is not None:
                chosen[within] = tokens
            elif not any(path[: len(tokens)] == tokens for path in chosen):
                if len(chosen) == most:
                    break
                chosen.append(tokens)
        return chosen


class PhraseReader:
    """Reads phrases after one prompt of token ids, until ``due_s`` on the clock of `time.perf_counter`."""

    def __init__(self, llm: LLM, prompt: Sequence[int], due_s: float = math.inf, namespace: int = 0) -> None:
        if llm.tokenizer.eos_id is None:
            raise RequestError("the model's tokenizer names no token that ends an answer: choose a chat model")
        self._llm, self._prompt, self._due_s, self._namespace = llm, list(prompt), due_s, namespace
        self._end: int = llm.tokenizer.eos_id

    def trie(self, phrases: Sequence[CandidatePhrase], weight: float = 1.0, per_token: float = 0.0) -> PhraseTrie:
        """Return phrases as token ids, at the beginning of an answer."""
        encode = self._llm.tokenizer.encode
        tokens = [(*encode(phrase.text, special=False, whole=False), self._end) for phrase in phrases]
        return PhraseTrie(phrases, tokens, weight, per_token)

    def read(self, trie: PhraseTrie, most_paths: int = MOST_PATHS, slack: float = 0.0) -> list[PhraseScore]:
        """Return the scores of all phrases, the best of those read whole first. Those that may come within ``slack``
        nats of the best are read too.

        Raises `RefusedError` if the time does not suffice for the prompt and one phrase; later, fewer are read.
        """
        self._read_paths(trie, trie.paths(1, FIRST_MARGIN), first=True)
        while paths := trie.paths(most_paths, slack=slack):
            try:
                self._read_paths(trie, paths)
            except RefusedError:
                break
        return sorted(trie.scores(), key=lambda each: (not each.is_whole, -each.score))

    def _read_paths(self, trie: PhraseTrie, paths: Sequence[Tokens], *, first: bool = False) -> None:
        """Learn the tokens along paths; with ``first`` those that may begin a phrase too."""
        asked = []
        begun = 0 if first else 1
        start = len(self._prompt) + begun
        for path in paths:
            named = {token for place in range(begun, len(path) + 1) for token in trie.wanted(path[:place])}
            params = SamplingParams(
                max_tokens=0,
                prompt_logprobs=0,
                prompt_logprobs_start=start,
                logprob_token_ids=tuple(sorted(named))[:MAX_LOGPROB_TOKENS],
            )
            asked.append(([*self._prompt, *path, self._end], params))
        for path, found in zip(paths, self._run(asked), strict=True):
            rows: Sequence[TokenLogprobs | None] = found.prompt_logprobs[start:]
            for place, row in enumerate(rows, begun):
                assert row is not None, "rows from the start on are scored"
                trie.learn(path[:place], row.top)

    def _run(self, asked: Sequence[tuple[Sequence[int], SamplingParams]]) -> list[Completion]:
        """Return completions of prompts that run together. Raises `RefusedError` if they are not done in time."""
        left_ms = (self._due_s - time.perf_counter()) * 1e3
        if left_ms <= 0:
            raise OverloadedError("no time is left to read a phrase", 1.0)
        deadline = None if math.isinf(left_ms) else Deadline(total_ms=left_ms)
        with ExitStack() as stack:
            streams = [
                stack.enter_context(self._llm.stream(prompt, params, deadline=deadline, namespace=self._namespace))
                for prompt, params in asked
            ]
            return [self._finished(stream) for stream in streams]

    def _finished(self, stream: DeltaStream) -> Completion:
        while True:
            delta = stream.next_within(TICK_S)
            if delta.completion is not None:
                return delta.completion
            if time.perf_counter() > self._due_s:  # the engine promised more than it could keep
                raise OverloadedError("the time is over", 1.0)
