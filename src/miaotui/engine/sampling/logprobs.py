"""Log-probabilities (nats) of the raw logits, before bias, penalties, temperature and filters.

Owns the one computation that prompts and answers share, and what is collected of one prompt while its chunks
are computed. Knows nothing of how a token was chosen. Invariants: the sum runs over exact integers (see the
draw kernels), so equal rows give equal floats, whatever threads or batches; no row of logits is kept, so
memory grows with a prompt's length times the number of alternatives and never with the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import Sampling
from miaotui.errors import EngineError, RequestError
from miaotui.types import PromptLogprobs, SamplingParams, Score, TokenLogprobs


def token_logprobs(
    sampling: Sampling, row: NDArray[np.float32], peak: float, token_id: int, n: int, named: Sequence[int] = ()
) -> TokenLogprobs:
    """Return the log-probabilities (nats) of ``token_id`` and of the ``n`` best in ``row [vocab]``.

    ``peak`` is the row's greatest logit. Among equals the lower id comes first; tokens at -inf are left out. With
    ``named`` those tokens stand in place of the best ones, in their order.
    """
    base = peak + sampling.log_total(row, peak)
    top = tuple((i, float(row[i]) - base) for i in (named or sampling.best(row, n)))
    return TokenLogprobs(token_id, float(row[token_id]) - base, top)


def ranked_logprobs(
    sampling: Sampling, row: NDArray[np.float32], peak: float, token_id: int, n: int, named: Sequence[int] = ()
) -> TokenLogprobs:
    """Return `token_logprobs` with the token's rank: 1 for the best. Of equal logits the lower id ranks first."""
    found = token_logprobs(sampling, row, peak, token_id, n, named)
    own = row[token_id]
    above = np.count_nonzero(row > own) + np.count_nonzero(row[:token_id] == own)
    return TokenLogprobs(token_id, found.logprob, found.top, int(above) + 1)


def score_of(found: PromptLogprobs, start: int) -> Score:
    """Return the score of a prompt's tokens from ``start`` on, all of which have log-probabilities."""
    tokens = tuple(token for token in found[start:] if token is not None)
    return Score(math.fsum(token.logprob for token in tokens), tokens, all(token.rank == 1 for token in tokens))


class PromptScores:
    """The log-probabilities of ``prompt[start:]``; those of token 0 are unknown, since nothing precedes it.

    With ``named``, those tokens' log-probabilities go with each position in place of the ``n`` best ones.
    """

    def __init__(
        self, prompt: Sequence[int], n: int, start: int, sampling: Sampling, named: Sequence[int] = ()
    ) -> None:
        self._prompt, self._n, self._sampling, self._named = prompt, n, sampling, named
        self.score_from = max(start - 1, 0)  # the first row whose logits are wanted: it precedes token ``start``
        self._found: list[TokenLogprobs | None] = [None] * (self.score_from + 1)
        self._is_read = False

    def take(self, logits: NDArray[np.float32], peaks: Sequence[tuple[int, float]]) -> None:
        """Score the next tokens by ``logits [rows, vocab]``, whose highest logits are ``peaks``.

        Raises `EngineError` for logits that are not numbers.
        """
        for row, (best, top) in zip(logits, peaks, strict=True):
            position = len(self._found)
            if not -math.inf < top < math.inf:
                raise EngineError(f"the logit of token {best} before position {position} is {top}; expected a number")
            self._found.append(ranked_logprobs(self._sampling, row, top, self._prompt[position], self._n, self._named))

    def read(self) -> PromptLogprobs:
        """Return `found` on the first call, nothing later; for streams, whose first piece carries them."""
        unread, self._is_read = not self._is_read, True
        return self.found if unread else ()

    @property
    def found(self) -> PromptLogprobs:
        """Return one entry for each prompt token that is scored so far; None before the first scored one."""
        return tuple(self._found[: len(self._prompt)])


def scores_for(prompt: Sequence[int], params: SamplingParams, sampling: Sampling) -> PromptScores:
    """Return the collector of the prompt's log-probabilities, for which ``params`` ask.

    Raises `RequestError` for a start beyond the prompt.
    """
    assert params.prompt_logprobs is not None, "called for requests that ask"
    if params.prompt_logprobs_start >= len(prompt):
        raise RequestError(
            f"prompt_logprobs_start must be a position in the prompt of {len(prompt)} tokens, "
            f"not {params.prompt_logprobs_start}"
        )
    return PromptScores(
        prompt, params.prompt_logprobs, params.prompt_logprobs_start, sampling, params.logprob_token_ids
    )
