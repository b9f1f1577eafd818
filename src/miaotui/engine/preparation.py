"""Checked requests from token ids and parameters, for engines in this process and elsewhere.

Owns what is checked before a request is taken on, and its number. Knows no scheduler and no pass. Invariant: a request
that exists fits the context, and names tokens of the vocabulary alone. May be used from any thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from miaotui.backends.backend import Sampling
from miaotui.engine.constraint import Constraint, check_endings
from miaotui.engine.output import Ending
from miaotui.engine.request import Request
from miaotui.engine.sampling.logprobs import scores_for
from miaotui.engine.sampling.sampler import SequenceSampler, end_ids
from miaotui.errors import PromptTooLongError, RequestError
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import SamplingParams


@dataclass(frozen=True)
class RequestPreparation:
    """The bounds that requests of one model are checked against."""

    context: int  # tokens of the longest prompt plus answer
    vocab_size: int
    tokenizer: Tokenizer
    sampling: Sampling
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def prepare(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        namespace: int = 0,
        constraint: Constraint | None = None,
        begun: Sequence[int] = (),
    ) -> Request:
        """Return a checked request, not queued yet; prefixes are reused within a ``namespace`` only.

        ``begun`` are tokens of the answer that are known already: what follows is what would have followed them.
        Raises `PromptTooLongError`, or `RequestError` for tokens that the model does not have and parameters that no
        grammar can go with.
        """
        is_answered = params.max_tokens != 0
        whole = [*prompt, *begun] if begun else prompt
        self._check(whole, is_answered)
        if constraint is not None and constraint.decides_end:
            check_endings(params)
        room = self.context - len(prompt)
        limit = room if params.max_tokens is None else min(params.max_tokens, room)
        if params.min_tokens > limit:
            raise RequestError(f"min_tokens is {params.min_tokens}, and the context has room for {limit} more tokens")
        if begun and len(begun) >= limit:
            raise RequestError(f"the answer has {len(begun)} tokens already, and its limit is {limit}")
        ends = end_ids(params, self.tokenizer.eos_ids, self.vocab_size)
        sampler = SequenceSampler(params, prompt, self.tokenizer.eos_ids, self.vocab_size, self.sampling)
        left = replace(params, min_tokens=max(params.min_tokens - len(begun), 0)) if begun else params
        ending = Ending(left, ends, max(limit - len(begun), 1), self.tokenizer.stream(start=True))
        scores = None if params.prompt_logprobs is None else scores_for(prompt, params, self.sampling)
        number, parts = next(self._numbers), (whole, sampler, ending)
        request = Request(
            number, *parts, namespace=namespace, constraint=constraint, scores=scores, is_answered=is_answered
        )
        if begun:
            request.resume(begun)
        return request

    def _check(self, prompt: Sequence[int], is_answered: bool) -> None:
        if not prompt:
            raise RequestError("the prompt has no tokens: give at least one")
        if len(prompt) + is_answered > self.context:
            raise PromptTooLongError(
                f"the prompt has {len(prompt)} tokens and the context holds {self.context}, the "
                "answer included: shorten the prompt, or load the model with a larger context"
            )
        low, high = min(prompt), max(prompt)
        if low < 0 or high >= self.vocab_size:
            wrong = low if low < 0 else high
            raise RequestError(
                f"the prompt holds token id {wrong}, and this model's ids go from 0 to "
                f"{self.vocab_size - 1}: use this model's own tokenizer"
            )
